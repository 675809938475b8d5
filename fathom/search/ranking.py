"""One order out of several."""

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item", bound=Hashable)
RANK_OFFSET = 60


def fuse(rankings: Iterable[Sequence[Item]]) -> list[Item]:
    """Reciprocal rank fusion (Cormack, Clarke and Buettcher 2009): score = sum of 1 / (60 + rank); best first."""
    scores: dict[Item, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(dict.fromkeys(ranking), start=1):
            scores[item] = scores.get(item, 0.0) + 1 / (RANK_OFFSET + rank)
    return sorted(scores, key=lambda item: -scores[item])
