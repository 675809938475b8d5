"""Drafts that cost no model: whatever followed the last few tokens when they occurred before, in prompt or output.

Source: prompt lookup decoding (A. Saxena, 2023), as transformers and vLLM ("ngram") have it. Here the longest match
wins, and of equally long ones the latest.
"""

from collections.abc import Sequence

import numpy as np

SHORTEST, LONGEST = 2, 12  # tokens that must agree; more than LONGEST are not compared


class PromptLookup:
    """The tokens of one sequence, searchable."""

    def __init__(self) -> None:
        self._ids = np.empty(1024, dtype=np.int32)
        self._size = 0

    def follow(self, tokens: Sequence[int]) -> None:
        """Take in what the sequence has gained; `tokens` is all of it, and only ever grows."""
        size = len(tokens)
        if size > len(self._ids):
            self._ids = np.concatenate([self._ids[: self._size], np.empty(size, dtype=np.int32)])
        self._ids[self._size : size] = tokens[self._size :]
        self._size = size

    def find(self, count: int) -> tuple[int, list[int]]:
        """How many of the last tokens were found again, and the `count` tokens that followed; (0, []) if too few.

        A continuation that reaches the sequence's own end repeats, as the sequence itself then seems to do.
        """
        ids = self._ids[: self._size]
        if self._size <= SHORTEST:
            return 0, []
        ends = np.flatnonzero(ids[:-1] == ids[-1])
        matched = min(1, len(ends))
        while 0 < matched < LONGEST:
            reaching = ends[ends >= matched]  # those whose match could go back one token further
            longer = reaching[ids[reaching - matched] == ids[-1 - matched]]
            if not len(longer):
                break
            ends, matched = longer, matched + 1
        if matched < SHORTEST:
            return 0, []
        start = int(ends[-1]) + 1
        following = ids[start : start + count].tolist()
        while len(following) < count:
            following += following[: count - len(following)]
        return matched, following
