"""A .gguf file, or a set of its split parts, as a Checkpoint with Hugging Face names and Hugging Face's row order."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fathom.checkpoints.checkpoint import SIDE_FILES, StoredTensor, TensorInfo
from fathom.checkpoints.errors import InvalidConfigError, MalformedFileError, MismatchError, SourceError
from fathom.checkpoints.gguf_config import read_config
from fathom.checkpoints.gguf_format import GGUFFile, GGUFTensor
from fathom.checkpoints.gguf_names import Place, places
from fathom.checkpoints.gguf_types import BY_NAME, Floats, numbers_of
from fathom.checkpoints.mapping import Bytes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SPLIT_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_MAX_PARTS = 4096


class GGUFCheckpoint:
    """Tensors of one or more mapped .gguf files; quantised ones are dequantised when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        parts = _open_parts(path)
        self.metadata: Mapping[str, object] = parts[0].metadata
        self._files = {name: part for part in parts for name in part.tensors}
        self._tensors: dict[str, GGUFTensor] = {name: part.tensors[name] for name, part in self._files.items()}
        shapes = {name: tensor.shape for name, tensor in self._tensors.items()}
        self._config(shapes)
        architecture = str(self.metadata["general.architecture"])
        self._places = places(shapes, architecture)
        self._places.pop("rope_freqs.weight", None)  # read by the config
        name, licence = (self.metadata.get(f"general.{key}") for key in ("name", "license"))
        self.name = name if isinstance(name, str) and name else path.stem
        self.licence = licence if isinstance(licence, str) else None
        self.files = {name: path.parent / name for name in SIDE_FILES if (path.parent / name).is_file()}

    def _config(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        factors = self._rope_factors()
        try:
            self.config = read_config(self.metadata, shapes, factors)
        except TypeError as error:
            raise InvalidConfigError(f"{self.path}: a metadata value has the wrong type ({error})") from error

    def _rope_factors(self) -> list[float] | None:
        if "rope_freqs.weight" not in self._tensors:
            return None
        tensor = self._tensors["rope_freqs.weight"]
        if tensor.type != "F32" or len(tensor.shape) != 1 or tensor.shape[0] > 4096:
            raise MismatchError(f"{self.path}: rope_freqs.weight is not a short list of float32 numbers")
        return [float(value) for value in self._numbers("rope_freqs.weight")]

    def names(self) -> list[str]:
        """Every tensor's Hugging Face name, one per expert."""
        return list(self._places)

    def info(self, name: str) -> TensorInfo:
        """Logical shape, stored type and bytes."""
        place = self._places[name]
        tensor = self._tensors[place.name]
        size = tensor.stop - tensor.start
        if place.value_name is not None:
            value = self._tensors[place.value_name]
            return TensorInfo(self._merged_shape(place), tensor.type, size + value.stop - value.start)
        if place.expert is not None:
            return TensorInfo(tensor.shape[1:], tensor.type, size // tensor.shape[0])
        return TensorInfo(tensor.shape, tensor.type, size)

    def tensor(self, name: str, dtype: "torch.dtype | None" = None) -> "Tensor":
        """The numbers, in Hugging Face's row order; float32 for quantised types unless told otherwise."""
        import torch

        from fathom.checkpoints.gguf_tensors import PLAIN_DTYPES, dequantise

        place = self._places[name]
        if place.value_name is not None:
            kind = self._tensors[place.name].type
            return torch.from_numpy(self._merged(place)).to(dtype or PLAIN_DTYPES.get(kind, torch.float32))
        stored = self.stored(name)
        return dequantise(stored.type, stored.data, stored.shape, dtype)

    def stored(self, name: str) -> StoredTensor:
        """The blocks, uint8 [rows, bytes of a row]: a view of the map, but for llama's q and k, whose rows are put
        into Hugging Face's order (blocks run along a row, so they stay whole), and for a kv_b that the file splits
        into a transposed half and another, which exists only as numbers (F32).
        """
        place = self._places[name]
        if place.value_name is not None:
            merged = self._merged(place)
            return StoredTensor("F32", merged.shape, merged.view(np.uint8))
        tensor = self._tensors[place.name]
        data, shape = self._files[place.name].stored(place.name), tensor.shape
        if place.expert is not None:
            data, shape = data.reshape(shape[0], -1)[place.expert], shape[1:]
        rows = _as_rows(data, shape, tensor.type)
        if place.part is not None:
            rows = self._unpermuted(name, rows, shape, place.part)
        return StoredTensor(tensor.type, shape, rows)

    def release(self) -> None:
        """Give the pages read so far back to the system."""
        for part in set(self._files.values()):
            part.release()

    def _unpermuted(self, name: str, rows: Bytes, shape: tuple[int, ...], part: str) -> Bytes:
        """Undo llama.cpp's reordering of a head's rows from [half, pair] to [pair, half] (convert_hf_to_gguf.py,
        LlamaModel.permute); also of biases, whose "rows" are their elements.
        """
        heads = self.config.num_attention_heads if part == "q" else self.config.num_key_value_heads
        if shape[0] % (2 * heads):
            raise MismatchError(
                f"{self.path}: {name} of shape {list(shape)} does not divide into {heads} heads of pairs"
            )
        items = rows.reshape(heads, shape[0] // heads // 2, 2, -1)
        return np.ascontiguousarray(items.swapaxes(1, 2)).reshape(rows.shape)

    def _merged_shape(self, place: Place) -> tuple[int, int]:
        """[H * (nope + value), R] of kv_b from attn_k_b [H, R, nope] and attn_v_b [H, value, R]."""
        key, value = self._tensors[place.name].shape, self._tensors[place.value_name or ""].shape
        if len(key) != 3 or len(value) != 3 or key[0] != value[0] or key[1] != value[2]:
            raise MismatchError(
                f"{self.path}: {place.name} {list(key)} and {place.value_name} {list(value)} do not fit"
            )
        return key[0] * (key[2] + value[1]), key[1]

    def _merged(self, place: Place) -> Floats:
        key_HRK, value_HVR = self._numbers(place.name), self._numbers(place.value_name or "")
        return np.concatenate([key_HRK.swapaxes(1, 2), value_HVR], axis=1).reshape(self._merged_shape(place))

    def _numbers(self, name: str) -> Floats:
        tensor = self._tensors[name]
        return numbers_of(tensor.type, self._files[name].stored(name), tensor.shape)


def _as_rows(data: Bytes, shape: tuple[int, ...], type_name: str) -> Bytes:
    block = BY_NAME[type_name]
    row_bytes = shape[-1] // block.weights * block.bytes
    return data.reshape(-1, row_bytes)


def _open_parts(path: Path) -> list[GGUFFile]:
    """All files of a split set, in order, or the one file.

    Raises:
        SourceError: a part is missing.
        MalformedFileError: parts contradict each other.

    """
    match = SPLIT_NAME.fullmatch(path.name)
    if match is None:
        file = GGUFFile(path)
        if file.metadata.get("split.count", 1) not in (0, 1):
            raise SourceError(f"{path} is one part of several; keep the parts' names (NAME-00001-of-0000N.gguf)")
        return [file]
    count = int(match["count"])
    if not 1 <= count <= _MAX_PARTS:
        raise MalformedFileError(f"{path} claims to be one of {count} parts")
    paths = [path.with_name(f"{match['stem']}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]
    missing = [part.name for part in paths if not part.is_file()]
    if missing:
        raise SourceError(f"{path} is one of {count} parts, and these are missing beside it: {', '.join(missing[:8])}")
    files = [GGUFFile(part) for part in paths]
    _check_parts(files)
    return files


def _check_parts(files: list[GGUFFile]) -> None:
    seen: set[str] = set()
    for number, file in enumerate(files):
        stated = (file.metadata.get("split.no"), file.metadata.get("split.count"))
        if stated != (number, len(files)):
            raise MalformedFileError(f"{file.path} says it is part {stated[0]} of {stated[1]} (counted from 0)")
        if seen & file.tensors.keys():
            raise MalformedFileError(f"{file.path} holds tensors that another part holds too")
        seen |= file.tensors.keys()
    total = files[0].metadata.get("split.tensors.count", len(seen))
    if total != len(seen):
        raise MalformedFileError(f"{files[0].path}: the parts hold {len(seen)} tensors together, not {total}")
