"""What a run tells: one JSON line a step, and a bar for the person who waits."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from fathom.checkpoints.writing import write_atomically
from fathom.training.plan import RunPlan


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One step. `loss`: of the next token, nats; `prediction` and `balance`: the other parts of the sum, with their
    factors. `gradient_norm`: before clipping. `max_violation`: MaxVio by layer. `skipped`: why no update was made.
    `seconds`: of this step; `cost_usd`: of the run so far, over all its sessions.
    """

    step: int
    tokens: int
    loss: float
    prediction: float
    balance: float
    gradient_norm: float
    learning_rate: float
    sequences: int
    max_violation: dict[int, float]
    skipped: str | None
    seconds: float
    tokens_per_second: float
    mfu: float
    cost_usd: float

    def to_json(self) -> dict[str, Any]:
        """One line of metrics.jsonl."""
        return {"kind": "step", **asdict(self)}


class MetricsFile:
    """metrics.jsonl of a run: `step` and `evaluation` lines, each with the step it belongs to."""

    def __init__(self, path: Path, first_step: int) -> None:
        """Keep the lines before `first_step` (those after it will be written again) and append."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            kept = [line for line in path.read_bytes().splitlines(keepends=True) if _step_of(line) < first_step]
            write_atomically(path, kept)
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Append one line and hand it to the system."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _step_of(line: bytes) -> float:
    """The step of a line; a line that a kill cut short belongs to no step and is dropped."""
    if not line.endswith(b"\n"):
        return float("inf")
    return float(json.loads(line)["step"])


class ProgressBar:
    """Tokens done, speed and time left, with loss, MFU, expert load and money."""

    def __init__(self, plan: RunPlan, tokens: int) -> None:
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=plan.tokens,
            initial=tokens,
            unit="tok",
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.2 if self._terminal else 10.0,
        )

    def show(self, metrics: StepMetrics) -> None:
        """Move the bar by one step."""
        loads = metrics.max_violation.values()
        told = {"loss": f"{metrics.loss:.4f}", "mfu": f"{metrics.mfu:.1%}", "$": f"{metrics.cost_usd:.2f}"}
        if loads:
            told["MaxVio"] = f"{sum(loads) / len(loads):.2f}"
        self._bar.set_postfix(told, refresh=False)
        self._bar.update(metrics.tokens - self._bar.n)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
