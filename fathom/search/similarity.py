"""Passages ranked by words like those of a question: each of its words counts by the most similar one of a passage.

What a late interaction does with contextual vectors (ColBERT, Khattab and Zaharia 2020), done with static ones and
weighted by rarity. Words without a vector count only where they stand in the passage themselves.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fathom.search.vectors import WordVectors

LEAST_SIMILARITY = 0.1  # of two unit vectors; unrelated words are about as near
LENGTH_POWER = 0.15  # long passages find something similar more easily

Ids = NDArray[np.int32]


class SimilarPassages:
    """All passages of an index as sets of terms, turned around: the passages of every term."""

    def __init__(self, passages: Sequence[Ids], vocabulary: Sequence[str], vectors: WordVectors) -> None:
        """`passages` hold ids of terms, each once; `vocabulary[id]` is the term."""
        lengths = np.array([len(terms) for terms in passages], np.int64)
        flat = np.concatenate(passages) if passages else np.zeros(0, np.int32)
        order = np.argsort(flat, kind="stable")
        self._passages = np.repeat(np.arange(len(passages), dtype=np.int32), lengths)[order]
        counts = np.bincount(flat, minlength=len(vocabulary))
        self._first = np.cumsum(counts) - counts
        self._counts = counts
        self._ids = {term: number for number, term in enumerate(vocabulary)}
        self._vectors = vectors
        self._known, self._table = vectors.of(vocabulary)
        self._rarity = np.log1p((len(passages) - counts + 0.5) / (counts + 0.5))
        self._unseen = np.log1p(len(passages) / 0.5)
        self._divisor = np.maximum(lengths, 1) ** LENGTH_POWER

    def rank(self, words: Sequence[str], k: int, least: float = 0.0) -> list[int]:
        """Places of the `k` best passages, best first; those with no more than the share `least` of what a passage
        with all the words would have are left out.
        """
        scores = self.scores(words)
        best = np.argsort(-scores, kind="stable")[:k]
        whole = sum(self._weight(word) for word in words)
        return [int(place) for place in best if scores[place] * self._divisor[place] > least * whole]

    def scores(self, words: Sequence[str]) -> NDArray[np.float64]:
        """The score of every passage."""
        total = np.zeros(len(self._divisor))
        for word in words:
            total += self._weight(word) * self._best(word)
        return total / self._divisor

    def _weight(self, word: str) -> float:
        return float(self._rarity[self._ids[word]] if word in self._ids else self._unseen)

    def _best(self, word: str) -> NDArray[np.float64]:
        """For every passage the similarity of its most similar word."""
        similarity = np.zeros(len(self._counts))
        known, vector = self._vectors.of([word])
        if len(known):
            # Not by BLAS, whose threads would be woken for a fraction of a millisecond's work.
            similarity[self._known] = np.einsum("td,d->t", self._table, vector[0])
        similarity = np.maximum((similarity - LEAST_SIMILARITY) / (1 - LEAST_SIMILARITY), 0)
        if word in self._ids:
            similarity[self._ids[word]] = 1.0
        terms = np.flatnonzero(similarity)
        terms = terms[np.argsort(similarity[terms])]
        lengths = self._counts[terms]
        # Places of all passages of all these terms; of a passage that comes twice numpy keeps the last value written,
        # and the most similar terms come last.
        places = np.arange(lengths.sum()) + np.repeat(self._first[terms] - (np.cumsum(lengths) - lengths), lengths)
        best = np.zeros(len(self._divisor))
        best[self._passages[places]] = np.repeat(similarity[terms], lengths)
        return best
