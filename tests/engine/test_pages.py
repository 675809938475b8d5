"""The page pool and the scheduler under any interleaving: no leak, nothing shared wrongly, everyone gets there."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from fathom.engine.pages import NoPagesError, PagePool, PageTable, chain_digest, root_digest
from fathom.engine.scheduler import ScheduledSequence, Scheduler

PAGE = 4


def fill(pool: PagePool, tokens: list[int], salt: str | None = None) -> PageTable:
    table = PageTable(pool, page_tokens=PAGE, salt=salt)
    assert table.grow(len(tokens))
    table.publish(tokens, len(tokens))
    return table


def test_a_prefix_is_found_again_in_full_pages_only() -> None:
    pool = PagePool(8)
    first = fill(pool, list(range(10)))
    second = PageTable(pool, page_tokens=PAGE)
    assert second.reuse([*range(10), 99]) == 8
    assert second.pages == first.pages[:2]


def test_the_last_token_is_never_taken_from_the_cache() -> None:
    pool = PagePool(8)
    fill(pool, list(range(8))).release()
    assert PageTable(pool, page_tokens=PAGE).reuse(list(range(8))) == 4


def test_equal_pages_after_different_beginnings_are_not_shared() -> None:
    pool = PagePool(8)
    fill(pool, [1, 1, 1, 1, 5, 6, 7, 8])
    assert PageTable(pool, page_tokens=PAGE).reuse([2, 2, 2, 2, 5, 6, 7, 8, 9]) == 0


def test_salts_keep_prefixes_apart() -> None:
    pool = PagePool(8)
    fill(pool, list(range(8)), salt="alice").release()
    assert PageTable(pool, page_tokens=PAGE, salt="bob").reuse(list(range(9))) == 0
    assert PageTable(pool, page_tokens=PAGE).reuse(list(range(9))) == 0
    assert PageTable(pool, page_tokens=PAGE, salt="alice").reuse(list(range(9))) == 8


def test_digests_tell_where_tokens_end() -> None:
    root = root_digest(None)
    assert chain_digest(root, [1, 23]) != chain_digest(root, [12, 3])
    assert chain_digest(chain_digest(root, [1]), [2]) != chain_digest(root, [1, 2])


def test_the_least_recently_used_end_of_a_prefix_is_forgotten_first() -> None:
    pool = PagePool(4)
    fill(pool, [1] * 8).release()
    fill(pool, [2] * 8).release()
    PageTable(pool, page_tokens=PAGE).reuse([1] * 9)  # held now
    third = PageTable(pool, page_tokens=PAGE)
    assert third.grow(4)  # takes the second page of the prefix of twos
    assert PageTable(pool, page_tokens=PAGE).reuse([2] * 9) == 4
    pool_of_twos = PageTable(pool, page_tokens=PAGE)
    assert not pool_of_twos.grow(8)
    assert pool_of_twos.pages == []  # all or nothing


def test_an_exhausted_pool_says_so_and_a_double_release_is_caught() -> None:
    pool = PagePool(1)
    page = pool.allocate()
    with pytest.raises(NoPagesError):
        pool.allocate()
    pool.release(page)
    with pytest.raises(AssertionError, match="more often"):
        pool.release(page)
    with pytest.raises(ValueError, match="memory"):
        PagePool(0)


class Interleavings(RuleBasedStateMachine):
    """Requests come, run, end and go in any order; a storage beside the pool records what each slot holds."""

    sequences = Bundle("sequences")

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler[int](PagePool(6), max_step_tokens=8, max_running=4, page_tokens=PAGE)
        self.slots: dict[tuple[int, int], tuple[int, ...]] = {}  # slot -> the whole prefix its entry belongs to
        self.salts: dict[int, str | None] = {}
        self.alive: list[ScheduledSequence[int]] = []

    @rule(
        target=sequences,
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=16),
        salt=st.sampled_from([None, "a"]),
    )
    def add(self, tokens: list[int], salt: str | None) -> ScheduledSequence[int]:
        sequence = self.scheduler.add(0, list(tokens), salt=salt)
        self.salts[sequence.arrival] = salt
        self.alive.append(sequence)
        return sequence

    @rule(token=st.integers(0, 1))
    def step(self, token: int) -> None:
        oldest = min(self.alive, key=lambda sequence: sequence.arrival, default=None)
        plan = self.scheduler.plan()
        assert bool(plan.chosen) == bool(self.alive)  # nobody starves while there is work
        assert sum(count for _, count in plan.work) <= 8
        assert plan.budget == 8 - sum(count for _, count in plan.work)
        assert oldest is None or any(sequence is oldest for sequence, _ in plan.work)  # the oldest always advances
        counts = [count for _, count in plan.work]
        assert counts[: counts.count(1)] == [1] * counts.count(1)  # single tokens first
        for sequence, count in plan.work:
            self.run(sequence, count)
        self.scheduler.commit(plan)
        for sequence, _ in plan.work:
            if sequence.remaining == 0:
                sequence.tokens.append(token)
                if len(sequence.tokens) >= 6 * PAGE:
                    self.end(sequence)

    def run(self, sequence: ScheduledSequence[int], count: int) -> None:
        salt = (self.salts[sequence.arrival] == "a",)
        prefix = (*salt, *sequence.tokens)
        for position in range(sequence.computed, sequence.computed + count):
            slot = sequence.table.pages[position // PAGE], position % PAGE
            self.slots[slot] = prefix[: position + 2]
        for position in range(sequence.computed + count):
            slot = sequence.table.pages[position // PAGE], position % PAGE
            assert self.slots[slot] == prefix[: position + 2], "an entry of another prefix is read"

    @rule(sequence=sequences)
    def cancel(self, sequence: ScheduledSequence[int]) -> None:
        if sequence in self.alive:
            self.end(sequence)
            assert sequence.table.pages == []

    def end(self, sequence: ScheduledSequence[int]) -> None:
        self.scheduler.remove(sequence)
        self.alive.remove(sequence)

    @invariant()
    def pages_are_held_exactly_by_the_running(self) -> None:
        scheduler = self.scheduler
        scheduler.pool.check([sequence.table.pages for sequence in self.alive])
        assert all(not sequence.table.pages and not sequence.computed for sequence in scheduler.waiting)
        assert scheduler.waiting_tokens == sum(len(sequence.tokens) for sequence in scheduler.waiting)
        order = [sequence.arrival for sequence in (*scheduler.running, *scheduler.waiting)]
        assert order == sorted(order)
        assert [scheduler.position(sequence) for sequence in scheduler.waiting] == [
            *range(1, len(scheduler.waiting) + 1)
        ]

    @invariant()
    def a_page_that_is_written_is_held_by_one(self) -> None:
        open_pages = [
            sequence.table.pages[sequence.computed // PAGE]
            for sequence in self.scheduler.running
            if sequence.computed // PAGE < len(sequence.table.pages)
        ]
        held = [page for sequence in self.scheduler.running for page in sequence.table.pages]
        assert all(held.count(page) == 1 for page in open_pages)


Interleavings.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestInterleavings = Interleavings.TestCase


def test_preemption_happens_and_everyone_still_finishes() -> None:
    scheduler = Scheduler[int](PagePool(6), max_step_tokens=8, max_running=4, page_tokens=PAGE)
    left = [scheduler.add(index, [index] * 6) for index in range(4)]
    for _ in range(300):
        plan = scheduler.plan()
        scheduler.commit(plan)
        for sequence, _ in plan.work:
            if sequence.remaining == 0:
                sequence.tokens.append(9)
            if len(sequence.tokens) == 20:
                scheduler.remove(sequence)
                left.remove(sequence)
    assert not left
    assert scheduler.preemptions > 0
    scheduler.pool.check([])


def test_a_batch_that_could_not_decode_together_is_refused() -> None:
    with pytest.raises(ValueError, match="max_running"):
        Scheduler[int](PagePool(1), max_step_tokens=4, max_running=8)
