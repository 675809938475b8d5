"""Which tokens run in the next step: continuous batching with chunked prefill, over pages that may run out.

Every step has a budget of tokens. Sequences that decode (one token left to compute) come first, then chunks of prompts
fill what is left, oldest request first, and new requests are admitted as long as pages and budget last. When a
sequence needs a page and none is left, the youngest running one is preempted: it gives its pages back, waits at the
front of the queue, and later computes its tokens again (what is still in the prefix cache is not computed twice).

Drafts come last: they take what budget and pages the step leaves over, and never anybody's place. A draft's tokens are
not their sequence's until they are accepted, so nothing has to be taken back when they are not.
"""

from bisect import insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from fathom.engine.pages import PAGE_TOKENS, PagePool, PageTable

OwnerT = TypeVar("OwnerT")


@dataclass(slots=True, eq=False)
class ScheduledSequence(Generic[OwnerT]):
    """One sequence as the scheduler sees it: tokens, how many of them are in the cache, and its pages.

    Attributes:
        owner: whatever the caller wants to find again (the engine's request).
        tokens: prompt and generated tokens; only ever appended to. Never empty.
        prompt_tokens: how many of them are the prompt.
        arrival: order of arrival; older sequences go first.
        computed: tokens whose entries are in the cache; the rest is to be run. Always below len(tokens) between steps.
        cached_tokens: prompt tokens found in the prefix cache when first admitted; None before.
        preemptions: how often its pages were taken away.
        reuses: whether what is cached of it need not be computed again.
        sought: whether its beginning was looked for in the prefix cache's second tier.

    """

    owner: OwnerT
    tokens: list[int]
    prompt_tokens: int
    table: PageTable
    arrival: int
    computed: int = 0
    cached_tokens: int | None = None
    preemptions: int = 0
    reuses: bool = True
    sought: bool = False

    @property
    def remaining(self) -> int:
        """Tokens still to be run before the next one can be chosen."""
        return len(self.tokens) - self.computed


@dataclass(slots=True)
class StepPlan(Generic[OwnerT]):
    """What to run: so many tokens of each sequence, and the token budget that is left."""

    budget: int
    chosen: dict[int, tuple[ScheduledSequence[OwnerT], int]] = field(default_factory=dict)  # by arrival
    drafts: dict[int, Sequence[int]] = field(default_factory=dict)  # by arrival

    @property
    def work(self) -> list[tuple[ScheduledSequence[OwnerT], int]]:
        """Sequences and how many of their own tokens to run; what runs a single token comes first."""
        return sorted(self.chosen.values(), key=lambda item: item[1] + len(self.draft_of(item[0])) > 1)

    def draft_of(self, sequence: ScheduledSequence[OwnerT]) -> Sequence[int]:
        """The tokens to verify after a sequence's own."""
        return self.drafts.get(sequence.arrival, ())

    def choose(self, sequence: ScheduledSequence[OwnerT], count: int) -> None:
        """Run `count` tokens of a sequence."""
        self.chosen[sequence.arrival] = (sequence, count)
        self.budget -= count

    def drop(self, sequence: ScheduledSequence[OwnerT]) -> None:
        """Take back what was chosen for a sequence, if anything was."""
        _, count = self.chosen.pop(sequence.arrival, (sequence, 0))
        self.budget += count


class Scheduler(Generic[OwnerT]):
    """The queue, the running sequences, and the plan of each step. Not thread-safe: the engine holds its lock.

    Args:
        pool: the pages.
        max_step_tokens: token budget of one step.
        max_running: most sequences that run at once; at most max_step_tokens, so that all of them can decode.
        page_tokens: tokens a page holds.

    """

    def __init__(
        self, pool: PagePool, *, max_step_tokens: int, max_running: int, page_tokens: int = PAGE_TOKENS
    ) -> None:
        if not 1 <= max_running <= max_step_tokens:
            raise ValueError(f"max_running ({max_running}) must be from 1 to max_step_tokens ({max_step_tokens})")
        self.pool = pool
        self.max_step_tokens = max_step_tokens
        self.max_running = max_running
        self.page_tokens = page_tokens
        self.waiting: deque[ScheduledSequence[OwnerT]] = deque()  # by arrival
        self.running: list[ScheduledSequence[OwnerT]] = []  # by arrival
        self.waiting_tokens = 0  # of all waiting sequences
        self.preemptions = 0
        self._arrivals = 0

    def add(self, owner: OwnerT, tokens: list[int], *, salt: str | None = None) -> ScheduledSequence[OwnerT]:
        """Append a sequence to the queue. The list is shared: the caller appends generated tokens to it."""
        table = PageTable(self.pool, page_tokens=self.page_tokens, salt=salt)
        sequence = ScheduledSequence(owner, tokens, len(tokens), table, self._arrivals)
        self._arrivals += 1
        self.waiting.append(sequence)
        self.waiting_tokens += len(tokens)
        return sequence

    def remove(self, sequence: ScheduledSequence[OwnerT]) -> None:
        """Take a finished, failed or cancelled sequence out, wherever it is; its pages are free at once."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
            self.waiting_tokens -= len(sequence.tokens)
        sequence.table.release()

    def position(self, sequence: ScheduledSequence[OwnerT]) -> int:
        """How many sequences run before this one is admitted: 1 for the head of the queue, 0 when it runs."""
        return self.waiting.index(sequence) + 1 if sequence in self.waiting else 0

    def next_to_admit(self) -> ScheduledSequence[OwnerT] | None:
        """Who is admitted next, if anybody can be now."""
        return self.waiting[0] if self.waiting and len(self.running) < self.max_running else None

    def spare_pages(self) -> int:
        """Pages that nobody holds and none of the running sequences will soon need."""
        return self.pool.available - self._promised()

    def plan(self, *, admit: bool = True) -> StepPlan[OwnerT]:
        """Choose the next step's work and make room for it; `admit` lets waiting ones in. Empty only without work."""
        plan = StepPlan[OwnerT](budget=self.max_step_tokens)
        preemptions = self.preemptions
        decodes = [sequence for sequence in self.running if sequence.remaining == 1]
        prefills = [sequence for sequence in self.running if sequence.remaining > 1]
        for sequence in (*decodes, *prefills):
            count = min(sequence.remaining, plan.budget)
            # One preempted earlier in this loop holds no pages any more; every running one holds some.
            if count and sequence.table.pages and self._make_room(sequence, sequence.computed + count, plan):
                plan.choose(sequence, count)
        if admit and self.preemptions == preemptions:
            while plan.budget and (admitted := self._admit(plan.budget)):
                plan.choose(admitted, min(admitted.remaining, plan.budget))
        return plan

    def commit(self, plan: StepPlan[OwnerT]) -> None:
        """Note that a step ran: its tokens are in the cache, and full pages can be found by others."""
        for sequence, count in plan.chosen.values():
            sequence.computed += count
            sequence.table.publish(sequence.tokens, sequence.computed)

    def add_draft(self, plan: StepPlan[OwnerT], sequence: ScheduledSequence[OwnerT], draft: Sequence[int]) -> int:
        """Have a draft verified after a chosen sequence's last token; returns how many of its tokens found room.

        Pages are taken only if nobody who runs will soon need them.
        """
        room = len(sequence.table.pages) * self.page_tokens - len(sequence.tokens)
        length = min(len(draft), plan.budget)
        missing = sequence.table.missing(len(sequence.tokens) + length)
        if missing and missing > self.spare_pages():
            length = min(length, room)
        if length > 0:
            sequence.table.grow(len(sequence.tokens) + length)
            plan.drafts[sequence.arrival] = draft[:length]
            plan.budget -= length
        return max(length, 0)

    def accept(self, sequence: ScheduledSequence[OwnerT], count: int) -> None:
        """Note that a draft's first `count` tokens, now appended to the sequence, are in the cache already."""
        sequence.computed += count
        sequence.table.publish(sequence.tokens, sequence.computed)

    def _make_room(self, sequence: ScheduledSequence[OwnerT], n_tokens: int, plan: StepPlan[OwnerT]) -> bool:
        """Get the pages for `n_tokens` tokens, from the youngest if need be; False if the sequence itself had to go."""
        while not sequence.table.grow(n_tokens):
            victim = self.running[-1]
            self._preempt(victim)
            plan.drop(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, victim: ScheduledSequence[OwnerT]) -> None:
        self.running.remove(victim)
        victim.table.release()
        victim.computed = 0
        victim.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(victim)  # whoever runs came before whoever waits, so the queue stays in order
        self.waiting_tokens += len(victim.tokens)

    def _admit(self, budget: int) -> ScheduledSequence[OwnerT] | None:
        """Move the head of the queue to the running ones, if its whole prompt will find room there."""
        sequence = self.next_to_admit()
        if sequence is None:
            return None
        sequence = self.waiting[0]
        sequence.computed = sequence.table.reuse(sequence.tokens) if sequence.reuses else 0
        if self.running and sequence.table.missing(len(sequence.tokens)) + self._promised() > self.pool.available:
        sequence.computed = sequence.table.reuse(sequence.tokens)
        if self.running and sequence.table.missing(len(sequence.tokens)) > self.spare_pages():
            sequence.table.release()
            sequence.computed = 0
            return None
        if not sequence.table.grow(sequence.computed + min(sequence.remaining, budget)):
            raise AssertionError("a sequence alone does not fit into the cache; requests are checked for that")
        self.waiting.popleft()
        self.waiting_tokens -= len(sequence.tokens)
        insort(self.running, sequence, key=lambda other: other.arrival)
        if sequence.cached_tokens is None:
            sequence.cached_tokens = sequence.computed
        return sequence

    def _promised(self) -> int:
        """Pages that the running sequences will soon need: the rest of their prompts and one more to decode into."""
        return sum(sequence.table.missing(len(sequence.tokens)) + 1 for sequence in self.running)
