"""Conversion: any checkpoint to a Hugging Face folder of another dtype, shard by shard, resumable, in little memory."""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from fathom.checkpoints.checkpoint import Checkpoint
from fathom.checkpoints.dtypes import DTYPES
from fathom.checkpoints.errors import CheckpointError, DiskFullError, NonFiniteError
from fathom.checkpoints.fp8 import SCALE_SUFFIX, quantise_fp8, scale_shape
from fathom.checkpoints.gguf_checkpoint import GGUFCheckpoint
from fathom.checkpoints.opening import open_checkpoint
from fathom.checkpoints.safetensors_format import nbytes, write_safetensors
from fathom.checkpoints.saving import Layout, plain_config, plan_shards, write_index
from fathom.checkpoints.sources import resolve
from fathom.checkpoints.tensor_names import ROUTER_BIAS, present_config
from fathom.checkpoints.writing import PART_SUFFIX, sha256_of, write_atomically, write_json
from fathom.models.config import Fp8Quantization, ModelConfig

log = logging.getLogger(__name__)

Dtype = Literal["bf16", "f16", "f32", "fp8"]
PROGRESS = ".fathom-export.json"
_TYPES = {"bf16": "BF16", "f16": "F16", "f32": "F32", "fp8": "BF16"}
# DeepSeek keeps embeddings, head, norms, gates and eh_proj in high precision (V3 report, section 3.3.1).
_QUANTISED = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.(.+\.)?\w+_proj(_with_mqa)?\.weight")
_MARGIN_BYTES = 16 << 20


def export(
    ref: str | Path,
    folder: str | Path,
    *,
    dtype: Dtype = "bf16",
    max_shard_bytes: int = 5_000_000_000,
    report: Callable[[str], None] = log.warning,
) -> Path:
    """Convert a model to a Hugging Face folder of safetensors in `dtype`; returns the folder.

    Works on a CPU, one tensor at a time; pages of the source are given back after each shard, so peak memory is one
    shard of the source plus the largest tensor. A conversion that was killed goes on where it stopped when it is
    started again with the same arguments: finished shards are verified by their sha256 and kept. config.json is
    written last. A bar shows the progress where stderr is a terminal.

    Args:
        ref: a model reference, see `resolve`.
        folder: must not hold a model yet.
        dtype: "fp8" writes DeepSeek's 128x128 blocks for the projections of attention and feed-forwards.
        max_shard_bytes: upper limit of a file (a larger single tensor gets a file of its own).
        report: told what could not be converted (a GGUF file's tokenizer).

    Raises:
        CheckpointError: the folder holds a model, or the unfinished conversion of another source.
        DiskFullError: no room; run it again when there is some.
        NonFiniteError: a value is too large for float16.

    """
    checkpoint, folder = open_checkpoint(resolve(str(ref))), Path(folder)
    if dtype not in _TYPES:
        raise ValueError(f"dtype must be one of {', '.join(_TYPES)}, not {dtype!r}")
    if (folder / "config.json").exists():
        raise CheckpointError(f"{folder} already holds a model; choose another folder or remove that one first")
    folder.mkdir(parents=True, exist_ok=True)
    shards = plan_shards(export_layout(checkpoint, dtype), max_shard_bytes)
    _write_shards(checkpoint, folder, shards, _Progress(folder, _fingerprint(checkpoint, dtype, max_shard_bytes)))
    write_index(folder, shards)
    for name, path in checkpoint.files.items():
        write_atomically(folder / name, [path.read_bytes()])
    if isinstance(checkpoint, GGUFCheckpoint) and "tokenizer.json" not in checkpoint.files:
        report(f"{folder} has no tokenizer.json: the tokenizer inside a GGUF file is not converted")
    write_json(folder / "config.json", _config(checkpoint, dtype).to_hf())
    (folder / PROGRESS).unlink(missing_ok=True)
    return folder


def export_layout(checkpoint: Checkpoint, dtype: Dtype) -> Layout:
    """Type and shape of every tensor of the converted model, an FP8 weight followed by its scales."""
    layout: Layout = {}
    for name in checkpoint.names():
        if ".rotary_emb." in name:
            continue
        shape = checkpoint.info(name).shape
        if dtype == "fp8" and len(shape) == 2 and _QUANTISED.fullmatch(name):
            layout[name] = ("F8_E4M3", shape)
            layout[name + SCALE_SUFFIX] = ("F32", scale_shape(shape[0], shape[1]))
        else:
            layout[name] = ("F32" if name.endswith(ROUTER_BIAS) else _TYPES[dtype], shape)
    return layout


def _config(checkpoint: Checkpoint, dtype: Dtype) -> ModelConfig:
    config = present_config(checkpoint.config, checkpoint.names())
    if dtype == "fp8":
        return replace(config, torch_dtype="bfloat16", quantization_config=Fp8Quantization())
    return plain_config(config, DTYPES[_TYPES[dtype]])


def _converted(checkpoint: Checkpoint, name: str, type_name: str) -> Tensor:
    if name.endswith(SCALE_SUFFIX):
        return quantise_fp8(checkpoint.tensor(name.removesuffix(SCALE_SUFFIX)))[1]
    if type_name == "F8_E4M3":
        return quantise_fp8(checkpoint.tensor(name))[0]
    tensor = checkpoint.tensor(name, DTYPES[type_name])
    if type_name == "F16" and not torch.isfinite(tensor).all():
        raise NonFiniteError(f"{name} holds values beyond float16's range (or NaN); export to bf16 or f32")
    return tensor


def _write_shards(checkpoint: Checkpoint, folder: Path, shards: dict[str, Layout], progress: "_Progress") -> None:
    sizes = {file: sum(nbytes(*entry) for entry in part.values()) for file, part in shards.items()}
    with tqdm(
        total=sum(sizes.values()), unit="B", unit_scale=True, desc=f"export {checkpoint.name}", disable=None
    ) as bar:
        todo = [file for file in shards if not progress.is_finished(file)]
        bar.update(sum(size for file, size in sizes.items() if file not in todo))
        _check_room(folder, sum(sizes[file] for file in todo))
        for file in todo:
            digest = write_safetensors(folder / file, shards[file], _tensors(checkpoint, shards[file], bar))
            progress.finish(file, digest)
            checkpoint.release()


def _tensors(checkpoint: Checkpoint, part: Layout, bar: Any) -> Iterator[Tensor]:
    for name, (type_name, shape) in part.items():
        yield _converted(checkpoint, name, type_name)
        bar.update(nbytes(type_name, shape))


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _MARGIN_BYTES > free:
        raise DiskFullError(f"{folder} needs {needed:,} more bytes, and {free:,} are free; make room and start again")


def _fingerprint(checkpoint: Checkpoint, dtype: Dtype, max_shard_bytes: int) -> str:
    """What a conversion depends on: the source's tensors, its files' sizes and times, and the arguments."""
    path = checkpoint.path
    files = sorted(path.parent.glob("*.gguf") if path.is_file() else path.iterdir())
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    tensors = [(name, checkpoint.info(name).type, checkpoint.info(name).shape) for name in checkpoint.names()]
    text = json.dumps([stats, tensors, dtype, max_shard_bytes])
    return hashlib.sha256(text.encode()).hexdigest()


class _Progress:
    """Which shards are finished, with their sha256, in a file beside them."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder
        self._state: dict[str, Any] = {"fingerprint": fingerprint, "shards": {}}
        if (folder / PROGRESS).is_file():
            self._state = self._read(fingerprint)
        write_json(folder / PROGRESS, self._state)
        for leftover in folder.glob("model*.safetensors" + PART_SUFFIX):
            leftover.unlink()

    def _read(self, fingerprint: str) -> dict[str, Any]:
        path = self._folder / PROGRESS
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged; remove the folder and export again") from error
        if not isinstance(state, dict) or state.get("fingerprint") != fingerprint:
            raise CheckpointError(
                f"{self._folder} holds an unfinished export of another source or with other settings; "
                "remove it or choose another folder"
            )
        return state

    def is_finished(self, file: str) -> bool:
        """Whether the shard was written wholly and still is what was written."""
        path, digest = self._folder / file, self._state["shards"].get(file)
        return digest is not None and path.is_file() and sha256_of(path) == digest

    def finish(self, file: str, digest: str) -> None:
        """Note a shard that is on the disk."""
        self._state["shards"][file] = digest
        write_json(self._folder / PROGRESS, self._state)
