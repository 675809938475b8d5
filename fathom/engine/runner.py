"""What the engine asks of whatever computes: one call per step, logits back; and, of models that can, drafts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from fathom.engine.arrays import Logits
from fathom.models.adapter import Adapter


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """One sequence's part of a step.

    Attributes:
        tokens: ids to run now, at positions start, start + 1, ... The last ones may be a draft, which the step's logits
            confirm or not; entries of tokens that are not kept are written again by a later step.
        start: tokens of the sequence that are in the cache already.
        pages: page numbers in the order of positions; they cover start + len(tokens) tokens, or more. Token t of the
            sequence lies in pages[t // page_tokens] at t % page_tokens. Valid during the call only.
        logits_from: logits are wanted for tokens[logits_from:]; len(tokens) wants none.
        adapter: number of the adapter to run with (`Runner.set_adapter`); None: the base model.

    """

    tokens: Sequence[int]
    start: int
    pages: Sequence[int]
    logits_from: int
    adapter: int | None = None


@dataclass(frozen=True, slots=True)
class Continuation:
    """What became of one sequence's part of the last step.

    Attributes:
        kept: how many of its tokens stay; the others were rejected drafts. 0: the sequence is over, nothing is wanted.
        following: the tokens that follow the kept ones, as far as they are known; at least one.
        wanted: how many tokens after `following` to guess; 0: only fill the prediction modules' cache.

    """

    kept: int
    following: Sequence[int]
    wanted: int

    def seen(self, tokens: Sequence[int], guess: Sequence[int], depth: int) -> list[int]:
        """What module `depth` sees besides: for each kept row at position i the token at i + depth + 1 (V3, eq. 21).

        `tokens` are the step's own, `guess` what the modules before have guessed to follow.
        """
        known = [*tokens[1 : self.kept], *self.following, *guess[len(self.following) - 1 :]]
        return known[depth : depth + self.kept]


class Runner(Protocol):
    """Weights and cache. All calls come from one thread. Sequences with a single token come first in a step."""

    name: str
    page_tokens: int
    n_pages: int
    bytes_per_page: int
    max_context: int
    vocab_size: int

    def step(self, sequences: Sequence[SequenceStep]) -> Logits:
        """Run the step and return logits [rows, V] float32, in order: a numpy array, or a tensor on a device.

        The caller may overwrite them.
        """
        ...

    def set_adapter(self, number: int, adapter: Adapter) -> None:
        """Keep an adapter under a number, or overwrite the one there; raises InvalidRequestError, changing nothing."""
        ...

    def drop_adapter(self, number: int) -> None:
        """Free an adapter; harmless when there is none under this number."""
        ...

    def close(self) -> None:
        """Free weights and cache; no step follows."""
        ...


@runtime_checkable
class PagingRunner(Runner, Protocol):
    """A runner whose pages can be taken out and put back, by this process or a later one.

    `page_format` is equal only where the same weights give a page the same bytes: layout, number format, kernels.
    Both calls may come from other threads while steps run on other pages.
    """

    page_format: str

    def read_page(self, page: int) -> bytes:
        """The `bytes_per_page` bytes of a page. If a step writes the page meanwhile, they may be of both."""
        ...

    def write_page(self, page: int, data: bytes | bytearray) -> None:
        """Put back what `read_page` gave."""
        ...


@runtime_checkable
class DraftingRunner(Runner, Protocol):
    """A runner whose model can guess further tokens: multi-token prediction modules (V3, section 2.2).

    `max_draft` is the most tokens that it can guess at once; 0: this model has no module.
    """

    max_draft: int

    def draft(self, continuations: Sequence[Continuation]) -> list[list[int]]:
        """Guess tokens for each sequence of the last step, in its order; called at most once between two steps.

        The pages of sequences that are kept are those of the step. Guesses need not be right: the next step confirms
        them. What they are made from may be stale where a prefix was shared or `draft` was not called; only how often
        they are right suffers.
        """
        ...
