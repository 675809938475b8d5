"""What a run leaves for people: the page, event files, checkpoints that are written meanwhile."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from fathom.checkpoints.errors import DiskFullError
from fathom.data.errors import RecipeError
from fathom.training.checkpoint import BackgroundWriter, checkpoints
from fathom.training.errors import ResumeError
from fathom.training.recipe import Recipe
from fathom.training.report import Sample, Section, write_report
from fathom.training.trainer import Trainer

Tiny = Callable[..., Recipe]


def trained(recipe: Recipe) -> Trainer:
    trainer = Trainer(recipe, Path(), rate=1e12, say=lambda _text: None)
    trainer.run()
    return trainer


def test_the_page_shows_curves_experts_samples_and_cost(tiny: Tiny) -> None:
    run = trained(tiny("v3-nano", "tokens=1280", "evaluation.every=2", "machine.price_usd=3.6")).output
    page = write_report(
        run,
        title="Run <1>",
        sections=[Section("Data", {"documents": 1234, "licence": "MIT & others"})],
        samples=[Sample("Once upon", "a <time>")],
    ).read_text()
    assert page.count("<svg") == 5
    for picture in page.split("<figure>")[1:]:
        ElementTree.fromstring(picture[: picture.index("</svg>") + 6])
    for text in (
        "Run &lt;1&gt;",
        "1,234",
        "MIT &amp; others",
        "a &lt;time&gt;",
        "held-out loss",
        "second token",
        "cost",
    ):
        assert text in page
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")


def test_a_dense_run_has_no_experts_to_show_and_a_missing_one_is_named(tiny: Tiny, tmp_path: Path) -> None:
    run = trained(tiny("dense-nano", "tokens=512")).output
    assert write_report(run, title="Dense").read_text().count("<svg") == 3
    with pytest.raises(RecipeError, match="not that of a training run"):
        write_report(tmp_path / "nowhere", title="None")


def test_event_files_hold_the_numbers_of_the_run(tiny: Tiny) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    output = trained(tiny("v3-nano", "tokens=768", "tensorboard=true", "evaluation.every=2")).output
    events = event_accumulator.EventAccumulator(str(output / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"train/loss", "train/mfu", "held-out/loss", "held-out/second token accepted", "MaxVio/layer 1"} <= set(tags)
    steps = [one.step for one in events.Scalars("train/loss")]
    assert steps == list(range(len(steps)))
    assert len(steps) > 2


def test_the_run_goes_on_while_a_checkpoint_is_written(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from fathom.training import run_state

    original, may_write, before = run_state.write_checkpoint, threading.Event(), []

    def slow(*arguments: Any) -> Path:
        before.append(threading.current_thread() is not threading.main_thread())
        assert may_write.wait(60)
        return original(*arguments)

    monkeypatch.setattr(run_state, "write_checkpoint", slow)
    recipe = tiny("dense-nano", "tokens=1024", "checkpoints.every=2", "checkpoints.keep=9")
    trainer, seen = Trainer(recipe, Path(), rate=1e12, say=lambda _text: None), []

    def on_step(_metrics: Any) -> None:
        seen.append(len(checkpoints(trainer.output / "checkpoints")))
        if len(seen) == 4:  # two steps after the first was handed over: none is there, and the run did not wait
            assert seen == [0, 0, 0, 0]
            may_write.set()

    trainer.run(on_step)
    assert all(before)
    assert [path.name[-2:] for path in checkpoints(trainer.output / "checkpoints")] == ["02", "04", "06", "08"]
    weights = {}
    for number in (2, 8):  # what was written is the state of that step, not of the moment of writing
        from fathom.checkpoints import open_checkpoint

        folder = trainer.output / "checkpoints" / f"step-{number:08d}"
        weights[number] = open_checkpoint(folder).tensor("model.norm.weight")
    assert torch.equal(weights[8], trainer.state.model.model.norm.weight)
    assert not torch.equal(weights[2], weights[8])


def test_a_failure_while_writing_reaches_the_run_once() -> None:
    writer, written = BackgroundWriter(), []

    def fail() -> None:
        raise DiskFullError("no room")

    writer.submit(fail)
    with pytest.raises(DiskFullError):
        writer.submit(lambda: written.append(1))
    writer.wait()
    assert written == [1]


def test_a_disk_that_stays_full_ends_the_run_with_its_name(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from fathom.training import run_state

    def full(*_arguments: Any) -> Path:
        raise DiskFullError("no room to write step")

    monkeypatch.setattr(run_state, "write_checkpoint", full)
    said: list[str] = []
    trainer = Trainer(tiny("dense-nano", "tokens=1280", "checkpoints.every=3"), Path(), rate=1e12, say=said.append)
    with pytest.raises(DiskFullError, match="no room"):
        trainer.run()
    assert trainer.state.step == 10
    assert any("the run goes on" in text for text in said)


def test_a_run_begins_with_the_weights_of_another(tiny: Tiny, tmp_path: Path) -> None:
    first = trained(tiny("v3-nano", "tokens=512"))
    newest = checkpoints(first.output / "checkpoints")[-1]
    more = (f"init='{newest}'", f"output='{tmp_path / 'second'}'")
    second = Trainer(tiny("v3-nano", "tokens=512", *more), Path(), rate=1e12)
    for name, tensor in first.state.model.state_dict().items():
        assert torch.equal(tensor, second.state.model.state_dict()[name]), name
    assert second.state.step == 0
    with pytest.raises(ResumeError, match="its model is another"):
        Trainer(tiny("v3-nano", *more, "model.intermediate_size=24"), Path(), rate=1e12)
