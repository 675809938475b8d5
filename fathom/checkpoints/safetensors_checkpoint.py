"""A Hugging Face folder (or one .safetensors file with its config.json) as a Checkpoint."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fathom.checkpoints.checkpoint import SIDE_FILES, StoredTensor, TensorInfo, listed
from fathom.checkpoints.errors import (
    CheckpointError,
    InvalidConfigError,
    MalformedFileError,
    MismatchError,
    SourceError,
    UnsafePathError,
)
from fathom.checkpoints.fp8_layout import BLOCK, SCALE_SUFFIX, scale_shape
from fathom.checkpoints.safetensors_format import Entry, SafetensorsFile
from fathom.models.checks import ConfigError
from fathom.models.config import ModelConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_MAX_JSON_BYTES = 100_000_000


class SafetensorsCheckpoint:
    """Tensors of one or more mapped .safetensors files; FP8 weights and their scales appear as one tensor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        folder = path if path.is_dir() else path.parent
        self.config = read_config(folder / "config.json")
        self.metadata: Mapping[str, object] = {}
        self.name = folder.name if path.is_dir() else path.stem
        self.licence = _licence(folder)
        self.files = {name: folder / name for name in SIDE_FILES if (folder / name).is_file()}
        self._shards = _open_shards(path)
        self._scales = {
            name
            for name in self._shards
            if name.endswith(SCALE_SUFFIX) and self._is_fp8(name.removesuffix(SCALE_SUFFIX))
        }

    def names(self) -> list[str]:
        """Every tensor's name; the scales of FP8 weights belong to their weights."""
        return [name for name in self._shards if name not in self._scales]

    def info(self, name: str) -> TensorInfo:
        """Shape, type and bytes (FP8: with its scales)."""
        entry = self._entry(name)
        scales = (
            self._entry(name + SCALE_SUFFIX) if self._is_fp8(name) and name + SCALE_SUFFIX in self._scales else None
        )
        size = entry.stop - entry.start + (scales.stop - scales.start if scales else 0)
        return TensorInfo(entry.shape, entry.type, size)

    def tensor(self, name: str, dtype: "torch.dtype | None" = None) -> "Tensor":
        """The numbers; FP8 weights times their scales, in float32 unless another dtype is wanted."""
        stored = self._shards[name].tensor(name)
        if self._is_fp8(name):
            import torch

            from fathom.checkpoints.fp8 import dequantise_fp8

            return dequantise_fp8(stored, self._scale(name), dtype or torch.float32, self._block)
        return stored if dtype is None else stored.to(dtype)

    def stored(self, name: str) -> StoredTensor:
        """The mapped bytes, [rows, bytes of a row], with the scales of an FP8 weight."""
        entry = self._entry(name)
        rows = entry.shape[0] if len(entry.shape) > 1 else 1
        data = self._shards[name].stored(name)
        scales = self._scale(name).float() if self._is_fp8(name) else None
        return StoredTensor(entry.type, entry.shape, data.reshape(rows, -1) if data.size else data, scales)

    def release(self) -> None:
        """Give the pages read so far back to the system."""
        for shard in set(self._shards.values()):
            shard.release()

    def _entry(self, name: str) -> Entry:
        return self._shards[name].entries[name]

    def _is_fp8(self, name: str) -> bool:
        return name in self._shards and self._entry(name).type == "F8_E4M3"

    @property
    def _block(self) -> tuple[int, int]:
        quantization = self.config.quantization_config
        return quantization.weight_block_size if quantization else (BLOCK, BLOCK)

    def _scale(self, name: str) -> "Tensor":
        shape = self._entry(name).shape
        if name + SCALE_SUFFIX not in self._scales:
            raise MismatchError(f"{self.path}: the FP8 tensor {name} has no scales ({name + SCALE_SUFFIX} is missing)")
        scales = self._shards[name + SCALE_SUFFIX].tensor(name + SCALE_SUFFIX)
        if len(shape) != 2 or tuple(scales.shape) != scale_shape(shape[0], shape[1], self._block):
            raise MismatchError(
                f"{self.path}: {name} of shape {list(shape)} in blocks of {self._block} "
                f"contradicts scales of shape {list(scales.shape)}"
            )
        return scales


def read_config(path: Path) -> ModelConfig:
    """The model's shape from config.json.

    Raises:
        SourceError: there is none.
        InvalidConfigError: it is not JSON, or not a model that Fathom can build.

    """
    if not path.is_file():
        raise SourceError(f"{path} does not exist: weights without their config.json cannot be loaded")
    try:
        return ModelConfig.from_hf(read_json(path))
    except ConfigError as error:
        raise InvalidConfigError(f"{path}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size.

    Raises:
        MalformedFileError: too large, not UTF-8, not JSON, or not an object.

    """
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise MalformedFileError(f"{path} has {path.stat().st_size} bytes; at most {_MAX_JSON_BYTES} make sense")
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise MalformedFileError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise MalformedFileError(f"{path} does not hold a JSON object")
    return value


def _open_shards(path: Path) -> dict[str, SafetensorsFile]:
    """Which mapped file holds each tensor."""
    if path.is_file():
        return _all_of(SafetensorsFile(path))
    if (path / INDEX).is_file():
        return _open_indexed(path)
    if (path / SINGLE).is_file():
        return _all_of(SafetensorsFile(path / SINGLE))
    candidates = sorted(path.glob("*.safetensors"))
    if len(candidates) == 1:
        return _all_of(SafetensorsFile(candidates[0]))
    raise CheckpointError(
        f"{path} has {len(candidates)} .safetensors files and no {INDEX} that says how they fit together"
    )


def _all_of(file: SafetensorsFile) -> dict[str, SafetensorsFile]:
    return dict.fromkeys(file.entries, file)


def _open_indexed(folder: Path) -> dict[str, SafetensorsFile]:
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise MalformedFileError(f"{folder / INDEX} has no weight_map of names to files")
    for file in set(weight_map.values()):
        check_plain_name(file, folder / INDEX)
        if not (folder / file).is_file():
            raise SourceError(f"{folder / file} is missing: the checkpoint was not downloaded completely")
    files = {file: SafetensorsFile(folder / file) for file in sorted(set(weight_map.values()))}
    lost = [name for name, file in weight_map.items() if name not in files[file].entries]
    if lost:
        raise MismatchError(f"{folder}: the index names tensors that are not in their files: {listed(lost)}")
    # What a shard holds beyond the index is kept too: loading reports it as unused rather than hiding it.
    extra = {name: file for file in files.values() for name in file.entries if name not in weight_map}
    return {name: files[file] for name, file in weight_map.items()} | extra


def check_plain_name(name: str, where: Path) -> None:
    """Refuse a file name from an index that could lead anywhere but to a weights file in the same folder."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}", name) or not name.endswith(".safetensors"):
        raise UnsafePathError(f"{where} names the file {name[:300]!r}, which is not a plain .safetensors file name")


def _licence(folder: Path) -> str | None:
    """`license:` in the front matter of the model card."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    with card.open("rb") as file:
        head = file.read(1 << 16).decode("utf-8", errors="replace")
    found = re.match(r"---\n(.*?)\n---", head, re.DOTALL)
    line = re.search(r"^license:\s*([\w.+-]+)\s*$", found.group(1), re.MULTILINE) if found else None
    return line.group(1) if line else None
