"""The paged twin of `models.ContiguousCache`: entries of many sequences in pages of one tensor.

B sequences, S tokens that may be looked at, N flat rows, C width of one entry, L layers, P pages of a sequence.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fathom.engine.runner import SequenceStep
from fathom.kernels.attention import PagedEntries, reads_pages
from fathom.models.cache import Group
from fathom.models.config import ModelConfig


class PagedCache:
    """Implements `models.KeyValueCache` for one step at a time: `begin` a step, then run the model once.

    The single tokens that lead a step (decodes) form one rectangular group; each chunk of a prompt forms its own.
    Pages start zeroed, since entries behind a mask must be finite.
    """

    def __init__(
        self, config: ModelConfig, n_pages: int, page_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.page_tokens = page_tokens
        self.groups: Sequence[Group] = ()
        self._rank = config.kv_lora_rank
        shape = (config.num_cache_layers, n_pages * page_tokens, config.cache_width)
        self._slots_LXC = _zeros(shape, dtype, device)  # X: slot = page * page_tokens + offset
        self._new_slots_N = torch.empty(0, dtype=torch.int64, device=device)
        self._read_slots: dict[int, Tensor] = {}  # first row of a group -> slots_BS
        self._tables: dict[int, tuple[Tensor, Tensor]] = {}  # first row of single tokens -> pages_BP, lengths_B (int32)

    def begin(self, sequences: Sequence[SequenceStep]) -> Tensor:
        """Lay out a step; returns positions_N, sequence by sequence."""
        decodes = next((i for i, one in enumerate(sequences) if len(one.tokens) != 1), len(sequences))
        parts = [sequences[:decodes]] if decodes else []
        parts += [[one] for one in sequences[decodes:]]
        groups, positions, slots = [], [], []
        row = 0
        self._read_slots, self._tables = {}, {}
        for part in parts:
            group, positions_BT = self._group(part, row)
            pages_BP = self._pages_of(part, group.context)
            slots_BS = self._slots_of(pages_BP, group.context)
            if group.new == 1:
                lengths_B = positions_BT[:, 0] + 1
                self._tables[row] = (pages_BP.int().to(self._device), lengths_B.int().to(self._device))
            groups.append(group)
            positions.append(positions_BT.flatten())
            slots.append(slots_BS.gather(1, positions_BT).flatten())
            self._read_slots[row] = slots_BS.to(self._device)
            row = group.rows.stop
        self.groups = groups
        self._new_slots_N = torch.cat(slots).to(self._device)
        return torch.cat(positions).to(self._device)

    def update(self, layer: int, entries_NC: Tensor) -> None:
        """Store one entry per new token."""
        self._slots_LXC[layer].index_copy_(0, self._new_slots_N, entries_NC.to(self._slots_LXC.dtype))

    def read(self, layer: int, group: Group) -> Tensor:
        """Return entries_BSC of one group; what pads shorter sequences is behind the mask."""
        slots_BS = self._read_slots[group.rows.start]
        return self._slots_LXC[layer].index_select(0, slots_BS.flatten()).view(*slots_BS.shape, -1)

    def paged(self, layer: int, group: Group) -> PagedEntries | None:
        """Return where a group of single tokens has its entries, on devices whose kernel reads them there."""
        if group.new != 1 or not reads_pages(self._device, self._rank, self.page_tokens):
            return None
        return PagedEntries(self._slots_LXC[layer], *self._tables[group.rows.start], self.page_tokens)

    def page(self, number: int) -> Tensor:
        """The entries of one page, [L, page_tokens, C]; a view."""
        return self._slots_LXC[:, number * self.page_tokens : (number + 1) * self.page_tokens]

    @property
    def _device(self) -> torch.device:
        return self._slots_LXC.device

    def _group(self, part: Sequence[SequenceStep], row: int) -> tuple[Group, Tensor]:
        """The group of sequences with equally many new tokens, and its positions_BT."""
        new = len(part[0].tokens)
        starts_B = torch.tensor([one.start for one in part])
        positions_BT = starts_B[:, None] + torch.arange(new)
        context = int(starts_B.max()) + new
        mask_BTS = None
        if int(starts_B.min()) + new != context:
            mask_BTS = (torch.arange(context) <= positions_BT[:, :, None]).to(self._device)
        return Group(slice(row, row + len(part) * new), len(part), new, context, mask_BTS), positions_BT

    def _pages_of(self, part: Sequence[SequenceStep], context: int) -> Tensor:
        n_pages = -(-context // self.page_tokens)
        pages_BP = torch.zeros(len(part), n_pages, dtype=torch.int64)
        for index, one in enumerate(part):
            pages = torch.tensor(one.pages[:n_pages])
            pages_BP[index, : len(pages)] = pages
        return pages_BP

    def _slots_of(self, pages_BP: Tensor, context: int) -> Tensor:
        slots_BPX = pages_BP[:, :, None] * self.page_tokens + torch.arange(self.page_tokens)
        return slots_BPX.flatten(1)[:, :context]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """`torch.zeros`; on the CPU memory is taken only where it is written (numpy asks for zeroed pages)."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(shape)
