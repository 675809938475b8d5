"""What attention looks back at: the protocol, no cache at all (training), and the contiguous, readable twin.

B sequences, T new tokens of one, S tokens that may be looked at, N flat rows, C width of one cache entry.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from fathom.kernels.attention import PagedEntries
from fathom.models.config import ModelConfig


@dataclass(frozen=True)
class Group:
    """A rectangular part of the flat batch: `batch` sequences with `new` tokens each, looking at `context` tokens.

    `rows` are its rows of the flat batch, sequence by sequence. `mask_BTS` is true where a token may look (bool,
    broadcastable over B). None means causal and aligned at the end: the T new tokens are the last of the S, none is
    padding; for S == T that is the plain causal triangle. Entries behind a false mask must be finite.
    """

    rows: slice
    batch: int
    new: int
    context: int
    mask_BTS: Tensor | None


class KeyValueCache(Protocol):
    """Where the blocks write their new entries and read all of them; `groups` cover the flat batch in row order."""

    @property
    def groups(self) -> Sequence[Group]:
        """The rectangular parts of the flat batch of this step."""
        ...

    def update(self, layer: int, entries_NC: Tensor) -> None:
        """Store one entry per new token."""
        ...

    def read(self, layer: int, group: Group) -> Tensor:
        """Return entries_BSC, cached and new, in the order of positions."""
        ...

    def paged(self, layer: int, group: Group) -> PagedEntries | None:
        """Return where the entries of a group of single tokens lie, if attention should read them there."""
        ...


class NoCache:
    """A whole-sequence forward that keeps nothing: training, scoring. Gradients flow through the entries."""

    def __init__(self, batch: int, tokens: int, mask: Tensor | None = None) -> None:
        """Expect a flat batch of `batch` sequences of `tokens` tokens; mask [B or 1, T, T] bool, None: causal."""
        self.groups: Sequence[Group] = (Group(slice(0, batch * tokens), batch, tokens, tokens, mask),)
        self._layer = -1
        self._entries_NC: Tensor | None = None

    def update(self, layer: int, entries_NC: Tensor) -> None:
        """Hold the entries of this one layer until the next."""
        self._layer, self._entries_NC = layer, entries_NC

    def read(self, layer: int, group: Group) -> Tensor:
        """Return what `update` was just given, as entries_BSC."""
        if self._entries_NC is None or self._layer != layer:
            raise RuntimeError(f"NoCache holds one layer at a time; layer {layer} was not the last one written")
        return self._entries_NC.view(group.batch, group.context, -1)

    def paged(self, layer: int, group: Group) -> None:
        """Nothing lies in pages here."""


class ContiguousCache:
    """One rectangle of entries for `batch` sequences of up to `max_tokens` tokens: the twin of the paged cache.

    Call `extend` with the number of new tokens of every sequence, then run the model once on the flat batch.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        max_tokens: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.num_cache_layers, batch, max_tokens, config.cache_width)
        self.entries_LBSC = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = [0] * batch
        self.groups: Sequence[Group] = ()
        self._sequences: dict[int, slice] = {}
        self._new: Sequence[int] = ()

    def extend(self, new: Sequence[int]) -> Tensor:
        """Make room for new[b] tokens of sequence b and return their positions_N, sequence by sequence."""
        _, batch, max_tokens, _ = self.entries_LBSC.shape
        if len(new) != batch or min(new) < 0:
            raise ValueError(f"give the number of new tokens of each of the {batch} sequences, not {list(new)}")
        self.lengths = [length + count for length, count in zip(self.lengths, new, strict=True)]
        if max(self.lengths) > max_tokens:
            raise ValueError(f"the cache holds {max_tokens} tokens a sequence; {max(self.lengths)} are needed")
        self._new = tuple(new)
        self._make_groups()
        device = self.entries_LBSC.device
        spans = [torch.arange(end - count, end, device=device) for end, count in zip(self.lengths, new, strict=True)]
        return torch.cat(spans)

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forget what lies beyond lengths[b] tokens of sequence b (a rejected draft)."""
        if any(keep > have for keep, have in zip(lengths, self.lengths, strict=True)):
            raise ValueError(f"cannot keep {list(lengths)} tokens of {self.lengths}")
        self.lengths = list(lengths)

    def update(self, layer: int, entries_NC: Tensor) -> None:
        """Store the entries of the tokens announced by `extend`."""
        start = 0
        for sequence, (end, count) in enumerate(zip(self.lengths, self._new, strict=True)):
            self.entries_LBSC[layer, sequence, end - count : end] = entries_NC[start : start + count]
            start += count

    def read(self, layer: int, group: Group) -> Tensor:
        """Return entries_BSC of the sequences of one group, up to its longest."""
        return self.entries_LBSC[layer, self._sequences[group.rows.start], : group.context]

    def paged(self, layer: int, group: Group) -> None:
        """Nothing lies in pages here."""

    def _make_groups(self) -> None:
        groups, self._sequences = [], {}
        row = first = 0
        for count, run in groupby(self._new):
            batch = len(list(run))
            lengths = self.lengths[first : first + batch]
            if count:
                rows = slice(row, row + batch * count)
                self._sequences[row] = slice(first, first + batch)
                groups.append(Group(rows, batch, count, max(lengths), self._mask(lengths, count)))
            row, first = row + batch * count, first + batch
        self.groups = groups

    def _mask(self, lengths: list[int], new: int) -> Tensor | None:
        if min(lengths) == max(lengths):
            return None
        device = self.entries_LBSC.device
        last_B = torch.tensor(lengths, device=device)
        positions_BT = last_B[:, None] - new + torch.arange(new, device=device)
        return torch.arange(max(lengths), device=device) <= positions_BT[:, :, None]
