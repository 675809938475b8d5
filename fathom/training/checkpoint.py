"""Checkpoints of a run: a Hugging Face folder that every engine loads, and beside it what going on needs.

checkpoints/step-00000500/                 appears by one rename, when everything in it is on the disk
    config.json, model*.safetensors, tokenizer.json ...
    training/state.json, training/state.safetensors
"""

import json
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fathom.checkpoints import save_model
from fathom.checkpoints.dtypes import TYPE_NAMES
from fathom.checkpoints.safetensors_format import SafetensorsFile, write_safetensors
from fathom.checkpoints.writing import sync_folder, write_json
from fathom.models.transformer import Transformer

STATE_VERSION = 1
_NAME = re.compile(r"step-(\d{8})")
_SHARD_BYTES = 5_000_000_000


def write_checkpoint(
    folder: Path,
    step: int,
    model: Transformer,
    tokenizer: Path,
    state: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> Path:
    """Write a checkpoint of `step` into the run's folder of checkpoints and return it.

    Args:
        folder: the folder of checkpoints.
        step: how many steps are done.
        model: the model as it computes.
        tokenizer: a folder whose files go into the checkpoint; may be missing.
        state: JSON values.
        tensors: what is to be kept exactly.

    Raises:
        DiskFullError: no room; nothing is left of the attempt, and older checkpoints stand.

    """

    def write_model(into: Path) -> None:
        if tokenizer.is_dir():
            for file in sorted(tokenizer.iterdir()):
                shutil.copyfile(file, into / file.name)
        save_model(model, into, max_shard_bytes=_SHARD_BYTES)

    return write_step(folder, step, state, tensors, write_model)


def write_step(
    folder: Path,
    step: int,
    state: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    write_model: Callable[[Path], object],
) -> Path:
    """Write a checkpoint whose weights `write_model` puts into the folder it is given; it appears whole or not at all.

    Raises:
        DiskFullError: no room; nothing is left of the attempt, and older checkpoints stand.

    """
    final = folder / f"step-{step:08d}"
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (partial / "training").mkdir(parents=True)
        layout = {name: (TYPE_NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
        write_safetensors(partial / "training" / "state.safetensors", layout, iter(tensors.values()))
        write_json(partial / "training" / "state.json", {"version": STATE_VERSION, "step": step, **state})
        write_model(partial)
        sync_folder(partial)
        partial.rename(final)
        sync_folder(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


class BackgroundWriter:
    """Writes one checkpoint at a time in a thread while the run computes; what failed is raised by the next call."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def submit(self, write: Callable[[], None]) -> None:
        """Start writing; waits for the one before and raises what it raised (the new one is started all the same)."""
        failure = self._join()
        self._thread = threading.Thread(target=self._run, args=(write,), name="checkpoint")
        self._thread.start()
        if failure is not None:
            raise failure

    def wait(self) -> None:
        """Return when nothing is being written any more; raises what the last one raised."""
        failure = self._join()
        if failure is not None:
            raise failure

    def _join(self) -> BaseException | None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        return failure

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:  # noqa: BLE001 - handed to the run, which decides
            self._failure = error


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name))


def remove_old(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep`, and what killed processes left. A kill in between leaves no half checkpoint."""
    for path in checkpoints(folder)[:-keep]:
        doomed = path.rename(path.with_name(f".{path.name}.partial"))
        shutil.rmtree(doomed)
    for path in folder.glob(".step-*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def read_state(checkpoint: Path) -> tuple[dict[str, Any], SafetensorsFile]:
    """The JSON state and the exact tensors of a checkpoint."""
    state: dict[str, Any] = json.loads((checkpoint / "training" / "state.json").read_text(encoding="utf-8"))
    return state, SafetensorsFile(checkpoint / "training" / "state.safetensors")
