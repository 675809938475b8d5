"""What the engine asks of whatever computes: one call per step, logits back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """One sequence's part of a step.

    Attributes:
        tokens: ids to run now, at positions start, start + 1, ...
        start: tokens of the sequence that are in the cache already.
        pages: page numbers in the order of positions; they cover start + len(tokens) tokens, or more. Token t of the
            sequence lies in pages[t // page_tokens] at t % page_tokens. Valid during the call only.
        logits_from: logits are wanted for tokens[logits_from:]; len(tokens) wants none.

    """

    tokens: Sequence[int]
    start: int
    pages: Sequence[int]
    logits_from: int


class Runner(Protocol):
    """Weights and cache. All calls come from one thread. Sequences with a single token come first in a step."""

    name: str
    page_tokens: int
    n_pages: int
    bytes_per_page: int
    max_context: int
    vocab_size: int

    def step(self, sequences: Sequence[SequenceStep]) -> Tensor:
        """Run the step and return logits [rows, V] float32, in order; the caller may overwrite them."""
        ...

    def close(self) -> None:
        """Free weights and cache; no step follows."""
        ...
