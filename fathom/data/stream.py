"""One source as one long run of tokens, mapped from its shards and read at any place; after the end it begins again."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fathom.data.errors import ShardError
from fathom.data.shards import Shard

Tokens = npt.NDArray[np.int64]


class TokenStream:
    """The shards of one source and split, joined. `tokens`: how many there are."""

    def __init__(self, folder: Path, shards: Sequence[Shard], dtype: str) -> None:
        self._folder = folder
        self._shards = shards
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._starts = np.concatenate([[0], np.cumsum([shard.tokens for shard in shards], dtype=np.int64)])
        self.tokens = int(self._starts[-1])

    @cached_property
    def _maps(self) -> list[npt.NDArray[np.unsignedinteger]]:
        return [self._map(shard) for shard in self._shards]

    def _map(self, shard: Shard) -> npt.NDArray[np.unsignedinteger]:
        file = self._folder / f"{shard.file}.tokens"
        size = file.stat().st_size if file.is_file() else -1
        if size != shard.tokens * self._dtype.itemsize:
            raise ShardError(
                f"{file} should have {shard.tokens * self._dtype.itemsize:,} bytes and "
                f"{'is missing' if size < 0 else f'has {size:,}'}: prepare the data again with --overwrite"
            )
        return np.memmap(file, dtype=self._dtype, mode="r")

    @cached_property
    def _offsets(self) -> list[npt.NDArray[np.int64]]:
        return [np.load(self._folder / f"{shard.file}.offsets.npy", mmap_mode="r") for shard in self._shards]

    @cached_property
    def _first_documents(self) -> npt.NDArray[np.int64]:
        """The number of each shard's first document, and at the end of all documents."""
        return np.cumsum([0, *(shard.documents for shard in self._shards)], dtype=np.int64)

    def _stretches(self, start: int, count: int) -> Iterator[tuple[int, int, slice, int]]:
        """Where the tokens lie: lap, shard, slice of the shard, and place in the result."""
        filled = 0
        while filled < count:
            lap, place = divmod(start + filled, self.tokens)
            shard = int(np.searchsorted(self._starts, place, side="right")) - 1
            inside = place - int(self._starts[shard])
            length = min(count - filled, self._shards[shard].tokens - inside)
            yield lap, shard, slice(inside, inside + length), filled
            filled += length

    def read(self, start: int, count: int) -> Tokens:
        """`count` tokens from place `start` of the endless repetition of the stream."""
        out = np.empty(count, dtype=np.int64)
        for _, shard, inside, filled in self._stretches(start, count):
            out[filled : filled + inside.stop - inside.start] = self._maps[shard][inside]
        return out

    def documents(self, start: int, count: int) -> npt.NDArray[np.int32]:
        """Which document of the row each token of `read(start, count)` is in: 0, 0, 1, 1, 1, 2, ..."""
        out = np.empty(count, dtype=np.int64)
        for lap, shard, inside, filled in self._stretches(start, count):
            places = np.arange(inside.start, inside.stop)
            within = np.searchsorted(self._offsets[shard], places, side="right") - 1
            first = lap * self._first_documents[-1] + self._first_documents[shard]
            out[filled : filled + len(places)] = first + within
        numbers: npt.NDArray[np.int32] = (out - out[0]).astype(np.int32)
        return numbers
