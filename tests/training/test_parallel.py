"""Two processes give the losses of one, whatever they share, and a checkpoint of one layout goes on in another."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fathom.checkpoints import open_checkpoint
from fathom.data.errors import RecipeError
from fathom.training.checkpoint import checkpoints
from fathom.training.parallel import Layout
from fathom.training.recipe import Recipe

Overrides = Callable[..., list[str]]
MORE = (
    *("tokens=1600", "checkpoints.every=5", "checkpoints.keep=9", "evaluation.every=5"),
    *("batch.ramp_from=2", "batch.micro_sequences=2", "data.mask_documents=true", "ema_decay=0.9"),
)


@pytest.fixture
def run(overrides: Overrides, recipe_file: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """run("name", processes, *overrides) -> the folder of the run."""

    def start(name: str, processes: int, *more: str, resume: bool = False) -> Path:
        output = tmp_path / name
        command = [sys.executable, "-m", "fathom.cli.main", "train", "pretrain", str(recipe_file("v3-nano")), "--json"]
        for override in [*overrides("v3-nano", *MORE, *more), f"output='{output}'"]:
            command += ["--set", override]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        started = []
        for rank in range(processes):
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            if processes > 1:  # what torchrun sets
                environment |= {"RANK": str(rank), "WORLD_SIZE": str(processes)}
            started.append(
                subprocess.Popen(
                    [*command, *(["--resume"] if resume else [])],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        outputs = [process.communicate(timeout=240)[0] for process in started]
        assert [process.returncode for process in started] == [0] * processes, "\n".join(outputs)
        return output

    return start


def curve(output: Path) -> list[list[float]]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    assert [line["step"] for line in steps] == list(range(len(steps)))
    return [
        [line["loss"], line["prediction"], line["balance"], line["gradient_norm"], *line["max_violation"].values()]
        for line in steps
    ]


def weights(output: Path, number: int = -1) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(checkpoints(output / "checkpoints")[number])
    return {name: checkpoint.tensor(name) for name in checkpoint.names()}


@pytest.mark.slow
def test_two_processes_give_the_losses_and_weights_of_one(run: Callable[..., Path]) -> None:
    whole = run("whole", 1)
    data = run("data", 2)
    both = run("both", 2, "parallel.experts=true")
    assert len(curve(whole)) == 13
    for output in (data, both):
        torch.testing.assert_close(torch.tensor(curve(output)), torch.tensor(curve(whole)), rtol=2e-3, atol=1e-5)
        for name, tensor in weights(output).items():
            torch.testing.assert_close(tensor, weights(whole)[name], rtol=0, atol=2e-3)
        assert (output / "average" / "config.json").exists()


@pytest.mark.slow
def test_a_checkpoint_goes_on_in_another_layout(run: Callable[..., Path]) -> None:
    both = run("both", 2, "parallel.experts=true")
    expected, last = curve(both), weights(both)
    for name in ("alone", "data"):
        copy = both.with_name(name)
        shutil.copytree(both, copy)
        for folder in checkpoints(copy / "checkpoints")[1:]:
            shutil.rmtree(folder)
        run(name, 1 if name == "alone" else 2, resume=True)
        torch.testing.assert_close(torch.tensor(curve(copy)), torch.tensor(expected), rtol=2e-3, atol=1e-5)
        for tensor_name, tensor in weights(copy).items():
            torch.testing.assert_close(tensor, last[tensor_name], rtol=0, atol=2e-3)


def test_what_cannot_be_shared_is_refused(tiny: Callable[..., Recipe]) -> None:
    with pytest.raises(RecipeError, match="shared by 3"):
        Layout(0, 3).check(tiny("v3-nano"))
    with pytest.raises(RecipeError, match="experts cannot be shared"):
        Layout(0, 3, experts=True).check(
            tiny("v3-nano", "batch.sequences=6", "batch.micro_sequences=3", "batch.ramp_from=3")
        )


def test_one_process_shares_nothing() -> None:
    layout, tensor = Layout(), torch.ones(2)
    assert layout.sum(tensor) is tensor
    assert not Layout(experts=True).is_split("model.layers.1.mlp.experts.up_proj")
    assert layout.part("model.layers.1.mlp.experts.up_proj", tensor) is tensor
