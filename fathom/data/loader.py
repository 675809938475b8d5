"""Rows of tokens for training: packed without waste, shuffled without holding the corpus, resumable at any row.

A row is T consecutive tokens of a source, wherever documents begin and end, as DeepSeek-V3 packs (report, section 4.1),
and `lookahead` more: the targets of the last places (1 for next-token prediction, 1 + D with D prediction modules).
Rows lie end to end, so every token is an input once per epoch; the last incomplete row of a source (fewer than T
tokens) opens its next pass. Which row comes n-th depends on the seed alone, not on the number of ranks: rank r of R
takes rows r, r + R, ... of each batch, and a run goes on exactly with another number of ranks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom.data.errors import DataError, LoaderStateError, ShardError
from fathom.data.files import digest_of
from fathom.data.mixture import Ingredient, Schedule, rows_in_pass
from fathom.data.shards import Index, read_index
from fathom.data.stream import TokenStream

STATE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Batch:
    """`tokens_BT` int64 [B, T + lookahead]; `documents_BT` int32, the same shape: which document of its row each token
    belongs to, counted from 0, for masks (or None); `sources_B` int64: the row's source, for losses by source.
    """

    tokens_BT: npt.NDArray[np.int64]
    documents_BT: npt.NDArray[np.int32] | None
    sources_B: npt.NDArray[np.int64]


class Loader:
    """Reads a folder of shards.

    `document_ids`: give them with each batch. `weights`: shares by source name instead of the index's. Sources without
    tokens in the split, and in validation those too small for one row, stand in `left_out`. The state is a small dict
    of JSON values. Raises ShardError for damaged folders, DataError for sources that cannot fill a row.
    """

    def __init__(
        self,
        folder: Path,
        sequence_length: int,
        *,
        split: str = "train",
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        lookahead: int = 1,
        shuffle: bool = True,
        document_ids: bool = False,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        if sequence_length < 1 or lookahead < 0 or not 0 <= rank < ranks:
            raise DataError("sequence_length >= 1, lookahead >= 0 and 0 <= rank < ranks")
        self.index = read_index(folder)
        self.sequence_length = sequence_length
        self._lookahead = lookahead
        self._rank, self._ranks = rank, ranks
        self._document_ids = document_ids
        ingredients = _ingredients(self.index, split, weights)
        if split == "validation":
            ingredients = [ingredient for ingredient in ingredients if ingredient.tokens >= sequence_length]
        if not ingredients:
            raise ShardError(f"{folder} has no source with a row of {sequence_length} tokens in its split {split!r}")
        self.source_names = tuple(ingredient.name for ingredient in ingredients)
        names = [source.name for source in self.index.sources]
        self.left_out = tuple(name for name in names if name not in self.source_names)
        shards = {source.name: getattr(source, split) for source in self.index.sources}
        self._streams = [TokenStream(folder, shards[name], self.index.dtype) for name in self.source_names]
        rows = tuple(rows_in_pass(ingredients, sequence_length))
        self._schedule = Schedule(rows, sequence_length, seed, shuffle)
        self._next = 0
        self._identity = digest_of(
            {
                "shards": [[shard.file, shard.sha256] for name in self.source_names for shard in shards[name]],
                "rows": list(rows),
                "sequence_length": sequence_length,
                "seed": seed,
                "shuffle": shuffle,
            }
        )

    @property
    def rows_per_pass(self) -> int:
        """Rows, over all ranks, after which the mixture is through."""
        return self._schedule.rows_per_pass

    @property
    def tokens_seen(self) -> int:
        """Inputs given out so far, over all ranks."""
        return self._next * self.sequence_length

    def next(self, rows: int) -> Batch:
        """Give this rank's part of the next `rows` rows; all ranks ask for the same number, a multiple of the ranks."""
        if rows < 1 or rows % self._ranks:
            raise DataError(f"a batch of {rows} rows does not divide among {self._ranks} ranks")
        numbers = range(self._next + self._rank, self._next + rows, self._ranks)
        self._next += rows
        return self.rows(numbers)

    def rows(self, numbers: Sequence[int]) -> Batch:
        """Given rows of the run by their number, whatever the state: for validation and for looking at a bad batch."""
        places = [self._schedule.row(number) for number in numbers]
        width = self.sequence_length + self._lookahead
        streams = [self._streams[place.source] for place in places]
        tokens = [stream.read(place.start, width) for stream, place in zip(streams, places, strict=True)]
        documents = None
        if self._document_ids:
            documents = np.stack(
                [stream.documents(place.start, width) for stream, place in zip(streams, places, strict=True)]
            )
        return Batch(np.stack(tokens), documents, np.array([place.source for place in places], dtype=np.int64))

    def state(self) -> dict[str, Any]:
        """Where the run stands; part of a training checkpoint, the same on every rank."""
        return {"version": STATE_VERSION, "next_row": self._next, "identity": self._identity}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` stood, with any number of ranks. Raises LoaderStateError for a state of other data, or
        of another seed, row length or mixture, with which the rows would not be the same.
        """
        if set(state) != {"version", "next_row", "identity"} or state["version"] != STATE_VERSION:
            raise LoaderStateError(f"this is no loader state of version {STATE_VERSION}: {dict(state)}")
        if state["identity"] != self._identity:
            raise LoaderStateError(
                "the state belongs to other shards, another seed, row length or mixture: resume with the recipe the "
                "checkpoint was made with, or start the loader anew"
            )
        if type(state["next_row"]) is not int or state["next_row"] < 0:
            raise LoaderStateError(f"next_row is a row number, not {state['next_row']!r}")
        self._next = state["next_row"]


def _ingredients(index: Index, split: str, weights: Mapping[str, float] | None) -> list[Ingredient]:
    """The sources that have tokens in the split; in validation each is seen once, whatever the mixture."""
    if split not in ("train", "validation"):
        raise DataError(f"a split is train or validation, not {split!r}")
    names = [source.name for source in index.sources]
    if weights is not None and set(weights) != set(names):
        raise DataError(f"weights name exactly the sources {', '.join(names)}; given: {', '.join(weights)}")
    ingredients = []
    for source in index.sources:
        tokens = sum(shard.tokens for shard in getattr(source, split))
        weight = source.weight if weights is None else weights[source.name]
        if split == "validation":
            weight = None
        if tokens:
            epochs = source.epochs if split == "train" else 1.0
            ingredients.append(Ingredient(source.name, tokens, epochs, weight))
    return ingredients
