"""One order out of several, and what says the same as what stands before it."""

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

from fathom.search.terms import terms

Item = TypeVar("Item", bound=Hashable)
RANK_OFFSET = 60


def fuse(rankings: Iterable[Sequence[Item]]) -> list[Item]:
    """Reciprocal rank fusion (Cormack, Clarke and Buettcher 2009): score = sum of 1 / (60 + rank); best first."""
    scores: dict[Item, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(dict.fromkeys(ranking), start=1):
            scores[item] = scores.get(item, 0.0) + 1 / (RANK_OFFSET + rank)
    return sorted(scores, key=lambda item: -scores[item])


SAME = 0.7  # share of the shorter text's word triples that two texts have in common when they say the same


def distinct(texts: Sequence[str]) -> list[int]:
    """The places of texts that are no near-copies of one before them."""
    kept: list[tuple[int, set[tuple[str, ...]]]] = []
    for place, text in enumerate(texts):
        triples = _triples(text)
        if all(len(triples & other) < SAME * max(1, min(len(triples), len(other))) for _, other in kept):
            kept.append((place, triples))
    return [place for place, _ in kept]


def _triples(text: str) -> set[tuple[str, ...]]:
    words = terms(text)
    return {tuple(words[start : start + 3]) for start in range(max(len(words) - 2, bool(words)))}
