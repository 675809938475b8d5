"""The page that a run leaves behind: curves, load of the experts, samples and cost, to be looked at rather than read.

One folder with an index.html, its pictures inside it as SVG, no script and nothing from the net.
"""

import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fathom.checkpoints.writing import write_atomically
from fathom.data.errors import RecipeError

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 1.5rem 0; } figure svg { width: 100%; height: auto; background: #fff; border-radius: .5rem; }
figcaption { color: GrayText; font-size: .9rem; }
table { border-collapse: collapse; } td, th { padding: .2rem 1rem .2rem 0; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
blockquote { margin: .5rem 0 1.5rem; padding: .2rem 1rem; border-left: .25rem solid #4d6bfe; white-space: pre-wrap; }
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """A text that the model was given, and what it wrote."""

    prompt: str
    text: str


@dataclass(frozen=True, slots=True)
class Section:
    """Facts under a heading, as a table; a value may be text or a number."""

    title: str
    facts: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RunLog:
    """metrics.jsonl by kind of line, each in the order of the steps."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    experts: list[dict[str, Any]] = field(default_factory=list)


def read_log(file: Path) -> RunLog:
    """Read a run's metrics; raises RecipeError where there are none."""
    if not file.is_file():
        raise RecipeError(f"there is no {file}: the folder is not that of a training run")
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    by_kind = {kind: [line for line in lines if line["kind"] == kind] for kind in ("step", "evaluation", "experts")}
    if not by_kind["step"]:
        raise RecipeError(f"{file} holds no step yet")
    return RunLog(by_kind["step"], by_kind["evaluation"], by_kind["experts"])


def write_report(
    run: Path,
    *,
    title: str,
    sections: Sequence[Section] = (),
    samples: Sequence[Sample] = (),
    folder: Path | None = None,
) -> Path:
    """Write the page of the run in `run` and return it.

    Args:
        run: the output folder of a run.
        title: of the page.
        sections: more tables, after the numbers of the run.
        samples: shown as quotations.
        folder: where to put it; default: `report` in the run's folder.

    Raises:
        RecipeError: no metrics there, or matplotlib is not installed.

    """
    log = read_log(run / "metrics.jsonl")
    pictures = _pictures(log)
    parts = [f"<h1>{html.escape(title)}</h1>", _table(_numbers(log))]
    parts += [f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>" for caption, svg in pictures]
    for section in sections:
        parts += [f"<h2>{html.escape(section.title)}</h2>", _table(section.facts)]
    if samples:
        parts.append("<h2>Samples</h2>")
        for sample in samples:
            parts.append(f"<p><strong>{html.escape(sample.prompt)}</strong></p>")
            parts.append(f"<blockquote>{html.escape(sample.text)}</blockquote>")
    body = "\n".join(parts)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body>{body}</body></html>\n"
    )
    file = (folder or run / "report") / "index.html"
    write_atomically(file, [page.encode()])
    return file


def _numbers(log: RunLog) -> dict[str, object]:
    last, seconds = log.steps[-1], sum(line["seconds"] for line in log.steps)
    found: dict[str, object] = {
        "steps": len(log.steps),
        "tokens": last["tokens"],
        "loss of the last step": f"{last['loss']:.4f}",
    }
    if log.evaluations:
        held_out = log.evaluations[-1]
        found["held-out loss"] = f"{held_out['loss']:.4f}"
        if held_out["acceptance"] is not None:
            found["second token accepted"] = f"{held_out['acceptance']:.1%}"
    skipped = sum(line["skipped"] is not None for line in log.steps)
    found |= {
        "tokens per second": f"{last['tokens'] / seconds:,.0f}",
        "share of the matrix rate": f"{sum(line['mfu'] * line['seconds'] for line in log.steps) / seconds:.1%}",
        "hours": f"{seconds / 3600:.2f}",
        "cost": f"${last['cost_usd']:.2f}",
        "steps skipped": skipped,
    }
    return found


def _table(facts: Mapping[str, object]) -> str:
    rows = []
    for name, value in facts.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        shown = f"{value:,}" if number else html.escape(str(value))
        rows.append(f"<tr><th>{html.escape(name)}</th><td{' class=number' if number else ''}>{shown}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _pictures(log: RunLog) -> list[tuple[str, str]]:
    """(caption, svg) of every picture that the log has numbers for."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise RecipeError("the report's pictures need matplotlib: pip install 'fathom-llm[report]'") from error
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "fathom"  # the same run gives the same picture
    pictures = [("Loss per token, in nats. Points: text held out.", _losses(log))]
    if any(line["max_violation"] for line in log.steps):
        caption = "Balance of the experts, largest load over mean load less one (MaxVio), mean and worst layer."
        pictures.append((caption, _violations(log)))
    if log.experts:
        caption = (
            "Share of the choices that fell on each expert over the run; the dashed line in the scale is even load."
        )
        pictures.append((caption, _heat_map(log)))
    pictures.append(("Learning rate and norm of the gradient before clipping.", _optimiser(log)))
    pictures.append(("Tokens per second, and share of this machine's matrix rate.", _speed(log)))
    return pictures


def _figure(rows: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2 * rows), layout="constrained")
    return figure, figure.subplots(rows, squeeze=False)[:, 0]


def _svg(figure: Any) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _smooth(values: Sequence[float], width: int) -> list[float]:
    """Means over the last `width` values."""
    total, smoothed = 0.0, []
    for index, value in enumerate(values):
        total += value - (values[index - width] if index >= width else 0.0)
        smoothed.append(total / min(width, index + 1))
    return smoothed


def _millions(log: RunLog) -> list[float]:
    return [line["tokens"] / 1e6 for line in log.steps]


def _losses(log: RunLog) -> str:
    figure, (axes,) = _figure()
    tokens, losses = _millions(log), [line["loss"] for line in log.steps]
    axes.plot(tokens, losses, color="#4d6bfe", alpha=0.25, linewidth=0.8)
    axes.plot(tokens, _smooth(losses, max(1, len(losses) // 50)), color="#4d6bfe", label="training")
    if log.evaluations:
        first = log.steps[0]["step"]
        at = [tokens[line["step"] - first] for line in log.evaluations]
        axes.plot(at, [line["loss"] for line in log.evaluations], "o-", color="#e4572e", label="held out", markersize=4)
    axes.set(xlabel="million tokens", ylabel="loss")
    axes.legend()
    return _svg(figure)


def _violations(log: RunLog) -> str:
    figure, (axes,) = _figure()
    values = [list(line["max_violation"].values()) for line in log.steps]
    axes.plot(_millions(log), [sum(row) / len(row) for row in values], color="#2a9d8f", label="mean")
    axes.plot(_millions(log), [max(row) for row in values], color="#e9c46a", label="worst layer", linewidth=0.8)
    axes.set(xlabel="million tokens", ylabel="MaxVio", ylim=(0, None))
    axes.legend()
    return _svg(figure)


def _heat_map(log: RunLog) -> str:
    layers = sorted(log.experts[-1]["loads"], key=int)
    figure, axes = _figure(len(layers))
    for one, layer in zip(axes, layers, strict=True):
        loads = [line["loads"][layer] for line in log.experts]
        shares = [[count / sum(row) for count in row] for row in loads]
        even = 1 / len(shares[0])
        columns = list(zip(*shares, strict=True))  # experts down, time across
        image = one.imshow(columns, aspect="auto", cmap="magma", vmin=0, vmax=3 * even, interpolation="nearest")
        one.set(ylabel=f"layer {layer}: expert", xlabel="look" if layer == layers[-1] else None)
        figure.colorbar(image, ax=one, format="{x:.0%}").ax.axhline(even, color="white", linestyle="--")
    return _svg(figure)


def _optimiser(log: RunLog) -> str:
    figure, (axes,) = _figure()
    axes.plot(_millions(log), [line["learning_rate"] for line in log.steps], color="#4d6bfe")
    axes.set(xlabel="million tokens", ylabel="learning rate")
    other = axes.twinx()
    other.plot(_millions(log), [line["gradient_norm"] for line in log.steps], color="#888", linewidth=0.7)
    other.set(ylabel="norm of the gradient", yscale="log")
    return _svg(figure)


def _speed(log: RunLog) -> str:
    figure, (axes,) = _figure()
    axes.plot(_millions(log), [line["tokens_per_second"] for line in log.steps], color="#4d6bfe", linewidth=0.8)
    axes.set(xlabel="million tokens", ylabel="tokens per second", ylim=(0, None))
    other = axes.twinx()
    other.plot(_millions(log), [100 * line["mfu"] for line in log.steps], color="#888", linewidth=0.7)
    other.set(ylabel="% of the matrix rate", ylim=(0, None))
    return _svg(figure)
