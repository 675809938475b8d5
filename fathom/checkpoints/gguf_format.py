"""The GGUF container (llama.cpp, docs/gguf.md): metadata and the table of tensors, read from a map, claim by claim.

Nothing is allocated on the word of the file: every count is first held against the bytes that are left.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fathom.checkpoints.errors import MalformedFileError, UnsupportedTypeError
from fathom.checkpoints.gguf_types import BLOCK_TYPES, UNREAD_TYPES
from fathom.checkpoints.mapping import Bytes, map_file, release

MAX_HEADER_BYTES = 1 << 27  # ten times the largest vocabulary; Python objects take several times the bytes of a file
MAX_KEY_BYTES = 65535
MAX_ARRAY_ITEMS = 1 << 24
MAX_ARRAY_DEPTH = 4
MAX_DIMENSIONS = 4
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_SMALLEST_TENSOR_ENTRY = 8 + 4 + 8 + 4 + 8
_SMALLEST_KEY_VALUE = 8 + 4 + 1


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One row of the table: `shape` in row-major order (GGUF lists it reversed), bytes `[start, stop)` of the file."""

    type: str
    shape: tuple[int, ...]
    start: int
    stop: int


class GGUFFile:
    """One mapped .gguf file: `metadata`, `tensors` by GGUF name, and their bytes as views of the map."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = map_file(path)
        reader = _Reader(self._data, path)
        self.metadata, self.tensors = reader.read()

    def stored(self, name: str) -> Bytes:
        """The bytes of one tensor: a view, uint8 [bytes]."""
        tensor = self.tensors[name]
        return self._data[tensor.start : tensor.stop]

    def release(self) -> None:
        """Give the pages read so far back to the system."""
        release(self._data)


class _Reader:
    def __init__(self, data: Bytes, path: Path) -> None:
        self.data = data.data
        self.size = data.size
        self.limit = min(data.size, MAX_HEADER_BYTES)
        self.path = path
        self.at = 0

    def fail(self, what: str) -> NoReturn:
        raise MalformedFileError(f"{self.path} is not a sound GGUF file: {what}")

    def read(self) -> tuple[dict[str, Any], dict[str, GGUFTensor]]:
        tensor_count, pair_count = self._preamble()
        metadata: dict[str, Any] = {}
        for _ in range(pair_count):
            key = self._string(MAX_KEY_BYTES)
            if key in metadata:
                self.fail(f"the metadata key {key!r} stands twice")
            metadata[key] = self._value(self._scalar("I"), 0)
        rows: dict[str, tuple[int, tuple[int, ...], int]] = {}
        for _ in range(tensor_count):
            name = self._string(MAX_KEY_BYTES)
            if name in rows:
                self.fail(f"the tensor {name!r} stands twice")
            rows[name] = self._tensor_row(name)
        return metadata, self._place(rows, self._alignment(metadata))

    def _preamble(self) -> tuple[int, int]:
        if self.size < 24 or bytes(self.data[:4]) != b"GGUF":
            self.fail("it does not begin with the letters GGUF and the counts")
        self.at = 4
        version = self._scalar("I")
        if version not in (2, 3):
            hint = "big-endian" if version & 0xFFFF == 0 else f"version {version}"
            raise UnsupportedTypeError(f"{self.path} is a {hint} GGUF file; only little-endian 2 and 3 are supported")
        tensor_count, pair_count = self._scalar("Q"), self._scalar("Q")
        left = self.limit - self.at
        if tensor_count * _SMALLEST_TENSOR_ENTRY + pair_count * _SMALLEST_KEY_VALUE > left:
            self.fail(f"it claims {tensor_count} tensors and {pair_count} metadata keys, too many for {left} bytes")
        return tensor_count, pair_count

    def _advance(self, count: int) -> int:
        start = self.at
        if count > self.limit - start:
            self.fail(f"its header goes on at byte {start}, beyond byte {self.limit}: truncated?")
        self.at = start + count
        return start

    def _scalar(self, code: str) -> Any:
        form = "<" + code
        return struct.unpack_from(form, self.data, self._advance(struct.calcsize(form)))[0]

    def _string(self, limit: int) -> str:
        length = self._scalar("Q")
        if length > limit:
            self.fail(f"a string of {length} bytes, where at most {limit} make sense")
        start = self._advance(length)
        try:
            return str(self.data[start : start + length], "utf-8")
        except UnicodeDecodeError:
            self.fail(f"the string at byte {start} is not UTF-8")

    def _value(self, kind: int, depth: int) -> Any:
        if kind == _STRING:
            return self._string(self.limit)
        if kind == _ARRAY:
            return self._array(depth + 1)
        if kind not in _SCALARS:
            self.fail(f"the metadata type {kind} does not exist")
        value = self._scalar(_SCALARS[kind])
        return bool(value) if kind == _BOOL else value

    def _array(self, depth: int) -> list[Any]:
        kind, count = self._scalar("I"), self._scalar("Q")
        if depth > MAX_ARRAY_DEPTH:
            self.fail(f"arrays inside arrays, more than {MAX_ARRAY_DEPTH} deep")
        smallest = struct.calcsize("<" + _SCALARS[kind]) if kind in _SCALARS else 8
        if count > MAX_ARRAY_ITEMS or count * smallest > self.limit - self.at:
            self.fail(f"an array claims {count} items, more than fit into the file")
        if kind == _STRING:
            return self._strings(count)
        if kind == _ARRAY:
            return [self._array(depth + 1) for _ in range(count)]
        if kind not in _SCALARS:
            self.fail(f"the metadata type {kind} does not exist")
        form = f"<{count}{_SCALARS[kind]}"
        values = struct.unpack_from(form, self.data, self._advance(struct.calcsize(form)))
        return [bool(value) for value in values] if kind == _BOOL else list(values)

    def _strings(self, count: int) -> list[str]:
        """A vocabulary has a hundred thousand of them, so this loop does nothing twice."""
        data, at, size = self.data, self.at, self.limit
        unpack, found = struct.Struct("<Q").unpack_from, []
        try:
            for _ in range(count):
                (length,) = unpack(data, at)
                at += 8
                if length > size - at:
                    self.fail(f"the string at byte {at} claims {length} bytes and reaches beyond the end: truncated?")
                found.append(str(data[at : at + length], "utf-8"))
                at += length
        except UnicodeDecodeError:
            self.fail(f"the string at byte {at} is not UTF-8")
        except struct.error:
            self.fail(f"it ends at byte {self.size} in the middle of an array of strings: truncated?")
        self.at = at
        return found

    def _tensor_row(self, name: str) -> tuple[int, tuple[int, ...], int]:
        dimensions = self._scalar("I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            self.fail(f"tensor {name!r} has {dimensions} dimensions")
        sizes = tuple(self._scalar("Q") for _ in range(dimensions))
        number, offset = self._scalar("I"), self._scalar("Q")
        if number in UNREAD_TYPES:
            raise UnsupportedTypeError(
                f"{self.path}: tensor {name!r} has the type {UNREAD_TYPES[number]}, which is not supported yet; "
                "take a file quantised to Q8_0, Q6_K, Q5_K, Q4_K, Q4_0 or another K-quant"
            )
        if number not in BLOCK_TYPES:
            self.fail(f"tensor {name!r} has the unknown type {number}")
        if sizes[0] % BLOCK_TYPES[number].weights or not all(sizes):
            self.fail(f"tensor {name!r} of type {BLOCK_TYPES[number].name} cannot have the sizes {sizes}")
        return number, sizes[::-1], offset

    def _alignment(self, metadata: dict[str, Any]) -> int:
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            self.fail(f"general.alignment is {alignment!r}")
        return alignment

    def _place(self, rows: dict[str, tuple[int, tuple[int, ...], int]], alignment: int) -> dict[str, GGUFTensor]:
        data_start = -(-self.at // alignment) * alignment
        tensors = {}
        for name, (number, shape, offset) in rows.items():
            block = BLOCK_TYPES[number]
            size = math.prod(shape) // block.weights * block.bytes
            if offset % alignment:
                self.fail(f"tensor {name!r} begins at {offset}, not on a multiple of {alignment}")
            if data_start + offset + size > self.size:
                self.fail(
                    f"tensor {name!r} ends at byte {data_start + offset + size}, beyond its end ({self.size} bytes): "
                    "truncated? download it again, or fetch its other parts"
                )
            tensors[name] = GGUFTensor(block.name, shape, data_start + offset, data_start + offset + size)
        self._check_overlaps(tensors)
        return tensors

    def _check_overlaps(self, tensors: dict[str, GGUFTensor]) -> None:
        end, last = 0, ""
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].start):
            if tensor.start < end:
                self.fail(f"tensors {last!r} and {name!r} overlap")
            end, last = tensor.stop, name
