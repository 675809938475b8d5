"""The loop: accumulation, recomputation, masks and the kill are invisible in the results; anomalies are not."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fathom.cli.main import main
from fathom.models.cache import NoCache
from fathom.training.checkpoint import checkpoints
from fathom.training.errors import DivergedError, ResumeError
from fathom.training.metrics import StepMetrics
from fathom.training.objective import Objective, Rows
from fathom.training.recipe import Recipe
from fathom.training.trainer import Trainer

Tiny = Callable[..., Recipe]


def train(recipe: Recipe, **options: Any) -> tuple[Trainer, list[StepMetrics]]:
    """Run a recipe to its end."""
    trainer = Trainer(recipe, Path(), rate=1e12, say=lambda _text: None, **options)
    steps: list[StepMetrics] = []
    trainer.run(steps.append)
    return trainer, steps


def gradients(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Of the first batch."""
    trainer = Trainer(recipe, Path(), rate=1e12)
    batch = trainer.state.loader.next(recipe.batch.sequences)
    documents = None if batch.documents_BT is None else torch.from_numpy(batch.documents_BT)
    trainer._gradients(Rows(torch.from_numpy(batch.tokens_BT), documents), 0.3)
    return {name: gradient.clone() for name, gradient in trainer.state.masters.gradients.items()}


@pytest.mark.parametrize("override", ["batch.micro_sequences=1", "batch.micro_sequences=4", "loss_rows=7"])
def test_accumulation_and_chunks_change_nothing(tiny: Tiny, override: str) -> None:
    masked = "data.mask_documents=true"
    expected, got = (
        gradients(tiny("v3-nano", masked)),
        gradients(tiny("v3-nano", masked, override, "batch.ramp_from=4")),
    )
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["v3-nano", "v2-nano", "dense-nano"])
def test_recomputation_gives_equal_gradients(tiny: Tiny, name: str) -> None:
    expected = gradients(tiny(name))
    for regions in (["attention"], ["feed-forward"], ["attention", "feed-forward"]):
        got = gradients(replace(tiny(name), recompute=tuple(regions)))
        for key, gradient in expected.items():
            torch.testing.assert_close(got[key], gradient, rtol=0, atol=0)


def test_prediction_loss_equals_a_naive_writing(tiny: Tiny) -> None:
    recipe = tiny("v3-nano")
    trainer = Trainer(recipe, Path(), rate=1e12)
    tokens = torch.from_numpy(trainer.state.loader.next(2).tokens_BT)
    objective = Objective(trainer.state.model, recipe)
    objective.begin(Rows(tokens, None), 0.3)
    losses = objective.losses(Rows(tokens, None))
    model, length = trainer.state.model, recipe.data.sequence_length
    main_loss = further_loss = 0.0
    for row in tokens:
        cache, positions = NoCache(1, length), torch.arange(length)
        hidden = model(row[:length], positions, cache)
        further = model.predict_further(0, hidden, row[1 : length + 1], positions, cache)
        for place in range(length):
            main_loss -= model.logits(hidden[place]).log_softmax(-1)[row[place + 1]].item()
            further_loss -= model.logits(further[place]).log_softmax(-1)[row[place + 2]].item()
    assert losses.next_token.item() == pytest.approx(main_loss / (2 * length), rel=1e-5)
    assert losses.prediction.item() == pytest.approx(0.3 * further_loss / (2 * length), rel=1e-5)


def test_masked_documents_do_not_see_each_other(tiny: Tiny) -> None:
    recipe = tiny("v3-nano", "data.mask_documents=true")
    model = Trainer(recipe, Path(), rate=1e12).state.model
    documents = torch.tensor([[0] * 12 + [1] * 22])
    tokens = torch.randint(2, 60, (1, 34))
    rows = Rows(tokens, documents)
    assert rows.counted(0, 32) == 31
    assert rows.counted(1, 32) == 30
    changed = tokens.clone()
    changed[0, :12] = 5
    hidden = [model(one[0, :32], torch.arange(32), NoCache(1, 32, rows.mask(32))) for one in (tokens, changed)]
    torch.testing.assert_close(hidden[0][12:], hidden[1][12:], rtol=0, atol=1e-6)
    assert not torch.allclose(hidden[0][:12], hidden[1][:12])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_killed_and_resumed_runs_equal_the_whole_one(
    tiny: Tiny, overrides: Callable[..., list[str]], recipe_file: Callable[[str], Path], tmp_path: Path, precision: str
) -> None:
    more = ["tokens=2400", f"precision={precision}", "ema_decay=0.9", "checkpoints.every=3", "batch.ramp_from=2"]
    whole, _ = train(tiny("v3-nano", *more, f"output='{tmp_path / 'whole'}'"))
    killed = tmp_path / "killed"
    arguments = [*overrides("v3-nano", *more), f"output='{killed}'"]
    command = [sys.executable, "-m", "fathom.cli.main", "train", "pretrain", str(recipe_file("v3-nano")), "--resume"]
    for override in arguments:
        command += ["--set", override]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    metrics = killed / "metrics.jsonl"
    for lines in (5, 11):
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            deadline = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < deadline:
                if metrics.exists() and metrics.read_bytes().count(b"\n") >= lines:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.002)
        assert process.returncode == -signal.SIGKILL
    resumed, _ = train(tiny("v3-nano", *more, f"output='{killed}'"), resume=True)
    for folder in (tmp_path / "whole", killed):
        assert len(checkpoints(folder / "checkpoints")) == 2
    assert curve(killed) == curve(tmp_path / "whole")
    for name, tensor in whole.state.model.state_dict().items():
        assert torch.equal(tensor, resumed.state.model.state_dict()[name]), name
    for name, tensor in whole.state._tensors().items():
        assert torch.equal(tensor, resumed.state._tensors()[name]), name


def curve(output: Path) -> list[tuple[Any, ...]]:
    """Everything but timings from metrics.jsonl."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    keys = ("kind", "step", "tokens", "loss", "prediction", "balance", "gradient_norm", "acceptance", "max_violation")
    return [tuple(str(line.get(key)) for key in keys) for line in lines]


def test_a_run_is_not_overwritten_or_resumed_as_another(tiny: Tiny) -> None:
    recipe = tiny("dense-nano", "tokens=256")
    train(recipe)
    with pytest.raises(ResumeError, match="add --resume"):
        train(recipe)
    with pytest.raises(ResumeError, match="other settings of optimizer"):
        train(tiny("dense-nano", "tokens=256", "optimizer.clip=2.0"), resume=True)


def test_not_finite_steps_stop_or_are_skipped_by_policy(tiny: Tiny) -> None:
    said: list[str] = []
    trainer = Trainer(tiny("dense-nano", "anomalies.not_finite=skip"), Path(), rate=1e12, say=said.append)
    weight = trainer.state.model.model.layers[0].mlp.up_proj.weight
    kept = {name: tensor.clone() for name, tensor in trainer.state.masters.weights.items()}
    with torch.no_grad():
        weight[0, 0] = float("nan")
    metrics = trainer.step()
    assert metrics.skipped is not None
    assert "rows 0 to 3" in said[0]
    assert trainer.state.optimizer.updates == 0
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(kept[name], trainer.state.masters.weights[name])
    for _ in range(3):
        trainer.step()
    with pytest.raises(DivergedError, match="5 in a row"):
        trainer.step()


def test_jumps_are_seen_once_there_is_a_history(tiny: Tiny) -> None:
    watch = Trainer(tiny("dense-nano", "anomalies.spike=skip"), Path(), rate=1e12).state.watch
    assert [watch.judge(step, range(4), 2.0, 1.0) for step in range(32)] == [None] * 32
    assert "jumps from 2" in str(watch.judge(32, range(4), 3.1, 1.0))
    assert watch.judge(33, range(4), 2.9, 1.0) is None


def test_a_full_disk_costs_the_checkpoint_not_the_run(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from fathom.checkpoints.errors import DiskFullError
    from fathom.training import run_state

    original, calls = run_state.write_checkpoint, []

    def full_once(*arguments: Any) -> Path:
        calls.append(1)
        if len(calls) == 1:
            raise DiskFullError("no room to write")
        return original(*arguments)

    monkeypatch.setattr(run_state, "write_checkpoint", full_once)
    trainer, steps = train(tiny("dense-nano", "tokens=1280", "checkpoints.every=5"))
    assert len(steps) == 10
    assert [path.name for path in checkpoints(trainer.output / "checkpoints")] == ["step-00000010"]


def test_the_command_trains_and_reports(
    overrides: Callable[..., list[str]], recipe_file: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "pretrain", str(recipe_file("dense-nano")), "--json"]
    for override in overrides("dense-nano", "tokens=512"):
        arguments += ["--set", override]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out.splitlines()[-1])
    assert report["tokens"] == 512
    assert report["validation_loss"] > 0
    assert "parameters" in captured.err
