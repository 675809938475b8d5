"""Whether a text has begun to repeat itself without end, as small models and long thoughts do."""

from collections.abc import Sequence

LONGEST_PERIOD = 160  # tokens: a few sentences
_LEAST_TOKENS = 96  # that must be repetition; a row of a table or a refrain is shorter
_LEAST_TIMES = 4
EVERY = 32  # tokens between two looks


def repeats(tokens: Sequence[int]) -> bool:
    """Whether the last tokens are one passage at least four times over, and at least 96 tokens of it."""
    tail = list(tokens[-LONGEST_PERIOD * _LEAST_TIMES :])
    for period in range(1, LONGEST_PERIOD + 1):
        length = max(_LEAST_TOKENS, _LEAST_TIMES * period)
        if length > len(tail):
            return False
        if tail[-length + period :] == tail[-length:-period]:
            return True
    return False
