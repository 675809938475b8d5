"""What moves logits before a token is chosen: penalties for tokens that occurred, and the request's logit bias."""

import copy
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from fathom.engine.arrays import Array, Logits, arrays_of
from fathom.engine.sampling import SamplingParams


class Occurrences:
    """The distinct tokens of one sequence and how often each was generated, in arrays that grow in place."""

    def __init__(self, prompt: Sequence[int]) -> None:
        known = np.array(sorted(set(prompt)), dtype=np.int64)
        self._size = len(known)
        self._tokens = np.concatenate([known, np.zeros(64, dtype=np.int64)])
        self._counts = np.zeros(len(self._tokens), dtype=np.float32)
        self._index = {int(token): index for index, token in enumerate(known)}

    def copy(self) -> Self:
        """The same counts, to be added to apart."""
        twin = copy.copy(self)
        twin._tokens, twin._counts, twin._index = self._tokens.copy(), self._counts.copy(), self._index.copy()
        return twin

    def add(self, token: int) -> None:
        """Count one more generated token."""
        index = self._index.get(token)
        if index is None:
            index = self._index[token] = self._size
            self._size += 1
            if index == len(self._tokens):
                self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._tokens[index] = token
        self._counts[index] += 1

    @property
    def tokens(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Distinct token ids of prompt and output."""
        return self._tokens[: self._size]

    @property
    def counts(self) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """How often each of `tokens` was generated; 0 for those of the prompt only."""
        return self._counts[: self._size]


def apply_bias(logits_BV: Logits, biases: Mapping[int, Mapping[int, float]]) -> None:
    """Add each row's logit bias in place; `biases` maps a row to token id -> bias."""
    sites = [(row, token, bias) for row, of_row in biases.items() for token, bias in of_row.items()]
    rows, tokens, values = zip(*sites, strict=True)
    host = arrays_of(logits_BV).host
    logits_BV[host(np.array(rows)), host(np.array(tokens))] += host(np.array(values, dtype=np.float32))


def apply_penalties(logits_BV: Logits, rows: Mapping[int, tuple[SamplingParams, Occurrences]]) -> None:
    """Apply repetition, presence and frequency penalties in place, touching only tokens that occurred.

    Repetition: CTRL (arXiv 1909.05858, section 4.1, sign-aware as everywhere since); over prompt and output.
    Presence and frequency: OpenAI's formula, over the output only.
    """
    arrays = arrays_of(logits_BV)
    lengths = [len(seen.tokens) for _, seen in rows.values()]

    def per_site(values: list[float]) -> Array:
        return arrays.host(np.repeat(np.asarray(values, dtype=np.float32), lengths))

    site_rows = arrays.host(np.repeat(np.asarray(list(rows), dtype=np.int64), lengths))
    site_tokens = arrays.host(np.concatenate([seen.tokens for _, seen in rows.values()]))
    counts = arrays.host(np.concatenate([seen.counts for _, seen in rows.values()]))
    repetition = per_site([params.repetition_penalty for params, _ in rows.values()])
    presence = per_site([params.presence_penalty for params, _ in rows.values()])
    frequency = per_site([params.frequency_penalty for params, _ in rows.values()])

    values = logits_BV[site_rows, site_tokens]
    values = arrays.where(values > 0, values / repetition, values * repetition)
    values -= frequency * counts + presence * (counts > 0)
    logits_BV[site_rows, site_tokens] = values
