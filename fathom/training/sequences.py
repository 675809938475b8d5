"""Sequences of many lengths in one flat batch without a mask: sorted, cut into rectangles, padded a little at the end.

No token sees another sequence, and padding is seen by nobody: it stands behind what it pads, where causal attention
does not look. N rows of the flat batch, B sequences of a rectangle, T its length, C width of a cache entry.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.models.cache import Group

FILLED = 0.85  # a sequence joins a rectangle if it fills at least so much of its length


@dataclass(frozen=True, slots=True)
class FlatBatch:
    """`tokens_N` and `positions_N` with the groups; `starts[i]` is the row of sequence i's first token."""

    tokens_N: Tensor
    positions_N: Tensor
    groups: tuple[Group, ...]
    starts: tuple[int, ...]

    def cache(self) -> "RectanglesCache":
        """A cache that keeps nothing, for one forward over this batch."""
        return RectanglesCache(self.groups)


class RectanglesCache:
    """`NoCache` for several rectangles: each reads the part of the entries that was just written for it."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups: Sequence[Group] = tuple(groups)
        self._parts: dict[int, Tensor] = {}
        self._layer = -1

    def update(self, layer: int, entries_NC: Tensor) -> None:
        """Hold the entries of this one layer until the next."""
        sizes = [group.rows.stop - group.rows.start for group in self.groups]
        # One split: slices one by one would each make a gradient of the size of the whole.
        parts = torch.split(entries_NC, sizes)
        self._layer = layer
        self._parts = {group.rows.start: part for group, part in zip(self.groups, parts, strict=True)}

    def read(self, layer: int, group: Group) -> Tensor:
        """Return what `update` was just given for this rectangle, as entries_BSC."""
        if layer != self._layer:
            raise RuntimeError(f"one layer at a time is held; layer {layer} was not the last one written")
        return self._parts[group.rows.start].view(group.batch, group.context, -1)

    def paged(self, layer: int, group: Group) -> None:
        """Nothing lies in pages here."""


def flat_batch(sequences: Sequence[Sequence[int]]) -> FlatBatch:
    """Lay sequences out as rectangles, the longest first."""
    order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index]))
    tokens: list[int] = []
    positions: list[int] = []
    groups: list[Group] = []
    starts = [0] * len(sequences)
    while order:
        length = len(sequences[order[0]])
        members = [index for index in order if len(sequences[index]) >= FILLED * length]
        order = order[len(members) :]
        begin = len(tokens)
        for index in members:
            starts[index] = len(tokens)
            tokens += sequences[index]
            tokens += [0] * (length - len(sequences[index]))
            positions += range(length)
        groups.append(Group(slice(begin, len(tokens)), len(members), length, length, None))
    return FlatBatch(torch.tensor(tokens), torch.tensor(positions), tuple(groups), tuple(starts))


def padded_length(lengths: Sequence[int]) -> int:
    """Rows of the flat batch that sequences of these lengths make."""
    rest, total = sorted(lengths, reverse=True), 0
    while rest:
        members = sum(length >= FILLED * rest[0] for length in rest)
        total += members * rest[0]
        rest = rest[members:]
    return total
