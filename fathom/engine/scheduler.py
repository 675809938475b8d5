"""Which tokens run in the next step: continuous batching with chunked prefill, over pages that may run out.

Every step has a budget of tokens. Sequences that decode (one token left to compute) come first, then chunks of prompts
fill what is left, oldest request first, and new requests are admitted as long as pages and budget last. When a
sequence needs a page and none is left, the last of the running ones (the highest priority number, then the youngest) is
preempted: it gives its pages back, waits, and later computes its tokens again (what is still in the prefix cache is
not computed twice).

Who is admitted next: the lowest priority number; then whoever was preempted; then the key (user) that was given the
fewest tokens so far, so that nobody is kept waiting by another's hundred requests; then the oldest. That is the virtual
token counter of Sheng et al. (arXiv 2401.00588, algorithm 2): a key that comes back starts at the lowest count of those
that are active, so nobody saves up. Who waits takes the place of one that runs with a higher priority number.

Drafts come last: they take what budget and pages the step leaves over, and never anybody's place. A draft's tokens are
not their sequence's until they are accepted, so nothing has to be taken back when they are not.
"""

from bisect import insort
from collections import Counter
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
        priority: lower numbers go first.
        key: whose it is.
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
    priority: int = 0
    key: str | None = None
    computed: int = 0
    cached_tokens: int | None = None
    preemptions: int = 0
    reuses: bool = True
    sought: bool = False

    @property
    def rank(self) -> tuple[int, int]:
        """Its place among those that run: the last gives way first."""
        return self.priority, self.arrival

    @property
    def remaining(self) -> int:
        """Tokens still to be run before the next one can be chosen."""
        return len(self.tokens) - self.computed


@dataclass(slots=True)
class StepPlan(Generic[OwnerT]):
    """What to run: so many tokens of each sequence, and the token budget that is left, of it what prompts may take."""

    budget: int
    prompt_left: int
    chosen: dict[int, tuple[ScheduledSequence[OwnerT], int]] = field(default_factory=dict)  # by arrival
    drafts: dict[int, Sequence[int]] = field(default_factory=dict)  # by arrival

    @property
    def work(self) -> list[tuple[ScheduledSequence[OwnerT], int]]:
        """Sequences and how many of their own tokens to run; what runs a single token comes first."""
        return sorted(self.chosen.values(), key=lambda item: item[1] + len(self.draft_of(item[0])) > 1)

    def draft_of(self, sequence: ScheduledSequence[OwnerT]) -> Sequence[int]:
        """The tokens to verify after a sequence's own."""
        return self.drafts.get(sequence.arrival, ())

    @property
    def prompt_budget(self) -> int:
        """Tokens that may still be chosen of sequences that do not decode yet."""
        return min(self.budget, self.prompt_left)

    def choose(self, sequence: ScheduledSequence[OwnerT], count: int) -> None:
        """Run `count` tokens of a sequence."""
        self.chosen[sequence.arrival] = (sequence, count)
        self.budget -= count
        self.prompt_left -= count if sequence.remaining > 1 else 0

    def drop(self, sequence: ScheduledSequence[OwnerT]) -> None:
        """Take back what was chosen for a sequence, if anything was."""
        _, count = self.chosen.pop(sequence.arrival, (sequence, 0))
        self.budget += count
        self.prompt_left += count if sequence.remaining > 1 else 0


class Served:
    """Tokens computed for each key, as far as the order of those who wait depends on it."""

    KEPT = 10_000  # keys remembered while they have no requests

    def __init__(self) -> None:
        self._tokens: dict[str | None, float] = {}
        self._active: Counter[str | None] = Counter()

    def tokens(self, key: str | None) -> float:
        """What a key was given so far."""
        return self._tokens.get(key, 0.0)

    def of(self, key: str | None) -> tuple[float, int]:
        """What a key was given so far; and how many requests it has, which decides between equals."""
        return self.tokens(key), self._active[key]

    def enter(self, key: str | None) -> None:
        """A request of a key comes."""
        if not self._active[key]:
            least = min((self._tokens[other] for other in self._active if other != key), default=0.0)
            self._tokens[key] = max(self.tokens(key), least)
        self._active[key] += 1

    def leave(self, key: str | None) -> None:
        """A request of a key is over."""
        self._active[key] -= 1
        if not self._active[key]:
            del self._active[key]
            if len(self._tokens) > self.KEPT + len(self._active):
                self._tokens = {other: self._tokens[other] for other in self._active}

    def add(self, key: str | None, tokens: int) -> None:
        """Tokens of a key were computed."""
        self._tokens[key] = self.tokens(key) + tokens


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
        self.waiting: list[ScheduledSequence[OwnerT]] = []  # by arrival
        self.running: list[ScheduledSequence[OwnerT]] = []  # by rank
        self.waiting_tokens = 0  # of all waiting sequences
        self.preemptions = 0
        self._arrivals = 0
        self._served = Served()

    def add(
        self,
        owner: OwnerT,
        tokens: list[int],
        *,
        salt: str | None = None,
        key: str | None = None,
        priority: int = 0,
    ) -> ScheduledSequence[OwnerT]:
        """Append a sequence to the queue. The list is shared: the caller appends generated tokens to it."""
        table = PageTable(self.pool, page_tokens=self.page_tokens, salt=salt)
        sequence = ScheduledSequence(owner, tokens, len(tokens), table, self._arrivals, priority, key)
        self._arrivals += 1
        self._served.enter(key)
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
        self._served.leave(sequence.key)
        sequence.table.release()

    def position(self, sequence: ScheduledSequence[OwnerT]) -> int:
        """Which to be admitted, as things stand now: 1 for the next one, 0 when it runs."""
        if sequence not in self.waiting:
            return 0
        return 1 + sum(self._turn(other) < self._turn(sequence) for other in self.waiting)

    def next_to_admit(self) -> ScheduledSequence[OwnerT] | None:
        """Who is admitted next, if there is a place, or one to be taken from somebody with a higher priority number."""
        if len(self.running) < self.max_running or any(self._gives_way(one) for one in self.waiting):
            return min(self.waiting, key=self._turn, default=None)
        return None

    def _turn(self, sequence: ScheduledSequence[OwnerT]) -> tuple[int, bool, float, int, int]:
        """Who waits goes by this, the lowest first."""
        if sequence.preemptions:
            return sequence.priority, False, 0.0, 0, sequence.arrival
        return sequence.priority, True, *self._served.of(sequence.key), sequence.arrival

    def _gives_way(self, following: ScheduledSequence[OwnerT]) -> bool:
        """Whether somebody runs who has to give way to a waiting one."""
        return bool(self.running) and self.running[-1].priority > following.priority

    def spare_pages(self) -> int:
        """Pages that nobody holds and none of the running sequences will soon need."""
        return self.pool.available - self._promised()

    def plan(self, *, admit: bool = True, prompt_tokens: int | None = None) -> StepPlan[OwnerT]:
        """Choose the next step's work and make room for it. Empty only without work, or without `admit`.

        Args:
            admit: let waiting ones in.
            prompt_tokens: most tokens of sequences that do not decode yet, of all together; None: up to the budget.

        """
        plan = StepPlan[OwnerT](self.max_step_tokens, self.max_step_tokens if prompt_tokens is None else prompt_tokens)
        preemptions = self.preemptions
        urgent = min((sequence.priority for sequence in self.waiting), default=0)
        self._advance(plan, [sequence for sequence in self.running if sequence.remaining == 1])
        prompts = [sequence for sequence in self.running if sequence.remaining > 1]
        self._advance(plan, [sequence for sequence in prompts if sequence.priority <= urgent])
        if admit and self.preemptions == preemptions:
            self._admit_all(plan, urgent)
        self._advance(plan, [sequence for sequence in prompts if sequence.priority > urgent])
        if admit and self.preemptions == preemptions:
            self._admit_all(plan)
        return plan

    def _advance(self, plan: StepPlan[OwnerT], sequences: Sequence[ScheduledSequence[OwnerT]]) -> None:
        """Choose as much of sequences that run as fits into the step."""
        for sequence in sequences:
            count = min(sequence.remaining, plan.budget if sequence.remaining == 1 else plan.prompt_budget)
            # One preempted meanwhile holds no pages any more; every running one holds some.
            if count and sequence.table.pages and self._make_room(sequence, sequence.computed + count, plan):
                plan.choose(sequence, count)

    def _admit_all(self, plan: StepPlan[OwnerT], priority: int | None = None) -> None:
        """Let waiting ones in as long as there is room, those of one priority only if one is given."""
        while plan.prompt_budget > 0:
            following = self.next_to_admit()
            if following is None or (priority is not None and following.priority != priority):
                return
            if not self._admit(following, plan):
                return
            plan.choose(following, min(following.remaining, plan.prompt_budget))

    def commit(self, plan: StepPlan[OwnerT]) -> None:
        """Note that a step ran: its tokens are in the cache, and full pages can be found by others."""
        for sequence, count in plan.chosen.values():
            sequence.computed += count
            sequence.table.publish(sequence.tokens, sequence.computed)
            self._served.add(sequence.key, count)

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
        self._served.add(sequence.key, count)

    def _make_room(self, sequence: ScheduledSequence[OwnerT], n_tokens: int, plan: StepPlan[OwnerT]) -> bool:
        """Get the pages for `n_tokens` tokens, from the last that runs if need be; False if that is the sequence."""
        while not sequence.table.grow(n_tokens):
            victim = self.running[-1]
            self._preempt(victim, plan)
            if victim is sequence:
                return False
        return True

    def _preempt(self, victim: ScheduledSequence[OwnerT], plan: StepPlan[OwnerT]) -> None:
        plan.drop(victim)
        self.running.remove(victim)
        victim.table.release()
        victim.computed = 0
        victim.preemptions += 1
        self.preemptions += 1
        insort(self.waiting, victim, key=lambda other: other.arrival)
        self.waiting_tokens += len(victim.tokens)

    def _admit(self, sequence: ScheduledSequence[OwnerT], plan: StepPlan[OwnerT]) -> bool:
        """Move a waiting one to the running ones, if its whole prompt will find room there."""
        sequence.computed = sequence.table.reuse(sequence.tokens) if sequence.reuses else 0
        while self.running and not self._has_room_for(sequence):
            if not self._gives_way(sequence):
                sequence.table.release()
                sequence.computed = 0
                return False
            self._preempt(self.running[-1], plan)
        if not sequence.table.grow(sequence.computed + min(sequence.remaining, plan.prompt_budget)):
            raise AssertionError("a sequence alone does not fit into the cache; requests are checked for that")
        self.waiting.remove(sequence)
        self.waiting_tokens -= len(sequence.tokens)
        insort(self.running, sequence, key=lambda other: other.rank)
        if sequence.cached_tokens is None:
            sequence.cached_tokens = sequence.computed
        return True

    def _has_room_for(self, sequence: ScheduledSequence[OwnerT]) -> bool:
        """Whether there is a place, and pages for all of its prompt beside what the running ones will soon need."""
        missing = sequence.table.missing(len(sequence.tokens))
        return len(self.running) < self.max_running and missing <= self.spare_pages()

    def _promised(self) -> int:
        """Pages that the running sequences will soon need: the rest of their prompts and one more to decode into."""
        return sum(sequence.table.missing(len(sequence.tokens)) + 1 for sequence in self.running)
