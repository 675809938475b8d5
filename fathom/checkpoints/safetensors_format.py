"""The safetensors format, read and written with every claim of the header checked first.

A file is `u64 length | JSON header | data`; the header maps names to `{dtype, shape, data_offsets}`, offsets counted
from the first byte of the data (github.com/huggingface/safetensors, "Format"). Fathom's reader refuses what the format
forbids (overlaps, holes, duplicate names, sizes that contradict dtype and shape) before it maps a single tensor.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fathom.checkpoints.errors import MalformedFileError, UnsupportedTypeError
from fathom.checkpoints.gguf_types import Floats, numbers_of
from fathom.checkpoints.mapping import Bytes, map_file, release
from fathom.checkpoints.writing import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation

ITEM_BYTES: dict[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies: its dtype's name, its shape, and its bytes `[start, stop)` in the file."""

    type: str
    shape: tuple[int, ...]
    start: int
    stop: int


def nbytes(type_name: str, shape: Iterable[int]) -> int:
    """Bytes of a tensor of this safetensors dtype and shape."""
    return math.prod(shape) * ITEM_BYTES[type_name]


class SafetensorsFile:
    """One mapped .safetensors file: `entries` by name, `metadata` (strings), and tensors as views of the map."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = map_file(path)
        self.entries, self.metadata = parse_header(self._data, path)

    def stored(self, name: str) -> Bytes:
        """The bytes of one tensor as they lie in the file: a view, uint8 [bytes]."""
        entry = self.entries[name]
        return self._data[entry.start : entry.stop]

    def release(self) -> None:
        """Give the pages read so far back to the system."""
        release(self._data)

    def tensor(self, name: str) -> "Tensor":
        """One tensor as a view of the map (a copy where the file does not align it)."""
        import torch

        from fathom.checkpoints.dtypes import DTYPES

        entry = self.entries[name]
        dtype = DTYPES[entry.type]
        data = self.stored(name)
        if entry.start % dtype.itemsize:
            data = data.copy()
        if data.size == 0:
            return torch.empty(entry.shape, dtype=dtype)
        return torch.from_numpy(data).view(dtype).view(entry.shape)

    def array(self, name: str) -> Floats:
        """One tensor of a float type as float32 in numpy: a copy, without PyTorch.

        Raises UnsupportedTypeError for other types than F32, F16 and BF16.
        """
        entry = self.entries[name]
        if entry.type not in ("F32", "F16", "BF16"):
            raise UnsupportedTypeError(f"{self.path}: {name} is stored as {entry.type}, expected F32, F16 or BF16")
        return numbers_of(entry.type, self.stored(name), entry.shape)


def parse_header(data: Bytes, path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Parse and validate the header of a mapped file.

    Raises:
        MalformedFileError: the header contradicts the format or the file's length.
        UnsupportedTypeError: a dtype that Fathom does not know.

    """
    fail = _failure(path)
    if data.size < 8:
        fail(f"it has {data.size} bytes, fewer than the length of a header")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > MAX_HEADER_BYTES:
        fail(f"it claims a header of {length} bytes (at most {MAX_HEADER_BYTES} are allowed)")
    if 8 + length > data.size:
        fail(f"its header of {length} bytes reaches beyond its end ({data.size} bytes): truncated?")
    header = _load_json(data[8 : 8 + length].tobytes(), path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        fail("__metadata__ is not a map of strings")
    entries = {name: _entry(name, value, 8 + length, path) for name, value in header.items()}
    _check_layout(entries, 8 + length, data.size, path)
    return entries, metadata


def _failure(path: Path) -> Any:
    def fail(what: str) -> NoReturn:
        raise MalformedFileError(f"{path} is not a sound safetensors file: {what}")

    return fail


def _load_json(text: bytes, path: Path) -> dict[str, Any]:
    fail = _failure(path)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            fail("its header has duplicate keys")
        return found

    if not text.startswith(b"{"):
        fail("its header does not begin with '{'")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, ValueError) as error:
        fail(f"its header is not valid JSON ({error})")
    if not isinstance(header, dict):
        fail("its header is not a JSON object")
    return dict(header)


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(_natural(item) for item in value)


def _entry(name: str, value: Any, data_start: int, path: Path) -> Entry:
    fail = _failure(path)
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        fail(f"the entry of {name!r} does not have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str):
        fail(f"the dtype of {name!r} is not a string")
    if dtype not in ITEM_BYTES:
        raise UnsupportedTypeError(f"{path}: tensor {name!r} has the dtype {dtype!r}, which is not supported")
    if not _naturals(shape) or len(shape) > 16:
        fail(f"the shape of {name!r} is not a short list of sizes")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        fail(f"the data_offsets of {name!r} are not a start and an end")
    expected = nbytes(dtype, shape)
    if offsets[1] - offsets[0] != expected:
        fail(f"{name!r} has {offsets[1] - offsets[0]} bytes, but {dtype} of shape {shape} needs {expected}")
    return Entry(dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _check_layout(entries: Mapping[str, Entry], data_start: int, size: int, path: Path) -> None:
    """The tensors must cover the data exactly: no overlap, no hole, nothing beyond the end, nothing behind them."""
    fail = _failure(path)
    ordered = sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop))
    end = ordered[-1][1].stop if ordered else data_start
    if end > size:
        fail(f"tensor {ordered[-1][0]!r} ends at byte {end}, beyond its end ({size} bytes): truncated?")
    if end < size:
        fail(f"{size - end} bytes after the last tensor belong to none")
    if ordered and ordered[0][1].start != data_start:
        fail(f"bytes before tensor {ordered[0][0]!r} belong to none")
    for (before, first), (after, second) in pairwise(ordered):
        if second.start != first.stop:
            what = "overlap" if second.start < first.stop else "leave a hole between them"
            fail(f"tensors {before!r} and {after!r} {what}")


def header_bytes(layout: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """The first bytes of a file holding these (dtype name, shape) in this order, padded so that data is aligned."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (type_name, shape) in layout.items():
        size = nbytes(type_name, shape)
        header[name] = {"dtype": type_name, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def tensor_bytes(tensor: "Tensor") -> memoryview:
    """The bytes of a tensor in row order, without a copy where it is contiguous and on the CPU."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data


def write_safetensors(
    path: Path,
    layout: Mapping[str, tuple[str, tuple[int, ...]]],
    tensors: "Iterator[Tensor]",
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write one file atomically, taking one tensor at a time (peak memory: the largest tensor).

    Args:
        path: the final name; nothing stands there before everything is on the disk.
        layout: dtype name and shape of each tensor, widest dtypes first so that every tensor is aligned.
        tensors: the tensors in the order of `layout`.
        metadata: strings for the header.

    Returns:
        The file's sha256, in hex.

    """
    from fathom.checkpoints.dtypes import TYPE_NAMES

    def parts() -> Iterator[bytes | memoryview]:
        yield header_bytes(layout, metadata or {"format": "pt"})
        for (name, (type_name, shape)), tensor in zip(layout.items(), tensors, strict=True):
            if TYPE_NAMES.get(tensor.dtype) != type_name or tuple(tensor.shape) != shape:
                raise ValueError(f"{name}: planned {type_name} {shape}, given {tensor.dtype} {tuple(tensor.shape)}")
            yield tensor_bytes(tensor)

    return write_atomically(path, parts())
