"""The page pool and the scheduler under any interleaving: no leak, nothing shared wrongly, everyone gets there."""

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from fathom.engine.pages import NoPagesError, PagePool, PageTable, chain_digest, root_digest
from fathom.engine.scheduler import ScheduledSequence, Scheduler, Served

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
    """Requests of any priority and key come, run, fail and go in any order, with drafts right and wrong.

    A storage beside the pool records what each slot holds.
    """

    sequences = Bundle("sequences")

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler[int](PagePool(6), max_step_tokens=8, max_running=4, page_tokens=PAGE)
        self.slots: dict[tuple[int, int], tuple[int, ...]] = {}  # slot -> the whole prefix its entry belongs to
        self.alive: list[ScheduledSequence[int]] = []

    @rule(
        target=sequences,
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=16),
        salt=st.sampled_from([None, "a"]),
        priority=st.sampled_from([0, 0, 0, 1]),
    )
    def add(self, tokens: list[int], salt: str | None, priority: int) -> ScheduledSequence[int]:
        sequence = self.scheduler.add(0, list(tokens), salt=salt, key=salt, priority=priority)
        self.alive.append(sequence)
        return sequence

    @rule(
        token=st.integers(0, 1),
        drafts=st.lists(st.integers(0, 1), max_size=4),
        prompt_tokens=st.none() | st.integers(1, 8),
        fails=st.sampled_from([False] * 9 + [True]),
    )
    def step(self, token: int, drafts: list[int], prompt_tokens: int | None, fails: bool) -> None:
        first = min(self.alive, key=lambda sequence: sequence.priority, default=None)
        plan = self.scheduler.plan(prompt_tokens=prompt_tokens)
        assert bool(plan.chosen) == bool(self.alive)  # nobody starves while there is work
        assert first is None or min(one.priority for one, _ in plan.work) == first.priority
        running = self.scheduler.running
        assert not running or any(sequence is running[0] for sequence, _ in plan.work)  # the first always advances
        prompts = sum(count for sequence, count in plan.work if sequence.remaining > 1)
        assert prompt_tokens is None or prompts <= prompt_tokens
        for sequence, _ in plan.work:
            if sequence.remaining == 1 and len(sequence.tokens) + len(drafts) <= 6 * PAGE:
                granted = self.scheduler.add_draft(plan, sequence, drafts)
                assert list(plan.draft_of(sequence)) == drafts[:granted]
        sizes = [count + len(plan.draft_of(sequence)) for sequence, count in plan.work]
        assert sum(sizes) <= 8
        assert plan.budget == 8 - sum(sizes)
        assert sizes[: sizes.count(1)] == [1] * sizes.count(1)  # single tokens first
        for sequence, count in plan.work:
            self.run(sequence, count, plan.draft_of(sequence))
        if fails:
            for sequence, _ in plan.work:
                self.end(sequence)
            return
        self.scheduler.commit(plan)
        for sequence, _ in plan.work:
            if sequence.remaining == 0:
                self.take(sequence, token, plan.draft_of(sequence))

    def run(self, sequence: ScheduledSequence[int], count: int, draft: Sequence[int]) -> None:
        prefix = (sequence.key == "a", *sequence.tokens, *draft)
        end = sequence.computed + count + len(draft)
        for position in range(sequence.computed, end):
            self.slots[self.slot(sequence, position)] = prefix[: position + 2]
        for position in range(end):
            assert self.slots[self.slot(sequence, position)] == prefix[: position + 2], (
                "an entry of another prefix is read"
            )

    def slot(self, sequence: ScheduledSequence[int], position: int) -> tuple[int, int]:
        return sequence.table.pages[position // PAGE], position % PAGE

    def take(self, sequence: ScheduledSequence[int], token: int, draft: Sequence[int]) -> None:
        """The model says `token` every time: as much of the draft is right as says so too."""
        right = next((index for index, one in enumerate(draft) if one != token), len(draft))
        sequence.tokens += [token] * (right + 1)
        if right:
            self.scheduler.accept(sequence, right)
        if len(sequence.tokens) >= 6 * PAGE:
            self.end(sequence)

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
        assert all(0 <= sequence.computed < len(sequence.tokens) for sequence in self.alive)
        assert scheduler.waiting_tokens == sum(len(sequence.tokens) for sequence in scheduler.waiting)
        ranks = [sequence.rank for sequence in scheduler.running]
        assert ranks == sorted(ranks)
        places = sorted(scheduler.position(sequence) for sequence in scheduler.waiting)
        assert places == [*range(1, len(scheduler.waiting) + 1)]
        assert all(scheduler.position(sequence) == 0 for sequence in scheduler.running)

    @invariant()
    def what_is_published_is_what_lies_there(self) -> None:
        for sequence in self.alive:
            digests, known = sequence.table.prefix([*sequence.tokens, 0])
            prefix = (sequence.key == "a", *sequence.tokens)
            for index, digest in enumerate(digests[:known]):
                page = self.scheduler.pool.share(digest)
                assert page is not None
                self.scheduler.pool.release(page)
                for offset in range(PAGE):
                    position = index * PAGE + offset
                    assert self.slots[page, offset] == prefix[: position + 2]

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


def admitted(scheduler: Scheduler[str], steps: int = 1) -> list[str]:
    """Who runs after so many steps, each of which gives everybody a token."""
    for _ in range(steps):
        plan = scheduler.plan()
        scheduler.commit(plan)
        for sequence, _ in plan.work:
            if sequence.remaining == 0:
                sequence.tokens.append(9)
    return sorted(sequence.owner for sequence in scheduler.running)


def test_one_users_hundred_requests_do_not_keep_another_waiting() -> None:
    scheduler = Scheduler[str](PagePool(100), max_step_tokens=64, max_running=2, page_tokens=PAGE)
    many = [scheduler.add(f"many {index}", [index] * 8, key="many") for index in range(20)]
    assert admitted(scheduler) == ["many 0", "many 1"]
    one = scheduler.add("one", [50] * 8, key="one")
    late = scheduler.add("late", [60] * 8, key="one")
    assert (scheduler.position(one), scheduler.position(late), scheduler.position(many[2])) == (1, 2, 3)
    scheduler.remove(many[0])
    assert "one" in admitted(scheduler, 5)
    assert scheduler.position(many[2]) == 1  # a prompt and five tokens were more than the other was given meanwhile
    scheduler.remove(many[1])
    assert admitted(scheduler, 30) == ["many 2", "one"]
    for _ in range(40):  # both want all that they can get, and get the same
        done = max(scheduler.running, key=lambda sequence: len(sequence.tokens))
        scheduler.remove(done)
        scheduler.add("another", [90] * 8, key=done.key)
        admitted(scheduler, 3)
    many_tokens, one_tokens = scheduler._served.tokens("many"), scheduler._served.tokens("one")
    assert abs(many_tokens - one_tokens) < 40


def test_who_comes_back_has_not_saved_up() -> None:
    served = Served()
    served.enter("steady")
    served.add("steady", 1000)
    served.enter("newcomer")
    assert served.tokens("newcomer") == 1000
    served.add("newcomer", 50)
    served.leave("newcomer")
    served.enter("newcomer")
    assert served.tokens("newcomer") == 1050  # nor does leaving wipe anything out
    for index in range(Served.KEPT + 10):
        served.enter(str(index))
        served.leave(str(index))
    assert len(served._tokens) <= Served.KEPT + 3


def test_lower_priority_numbers_go_first_and_take_places() -> None:
    scheduler = Scheduler[str](PagePool(100), max_step_tokens=64, max_running=2, page_tokens=PAGE)
    slow = [scheduler.add(f"slow {index}", [index] * 8, priority=1) for index in range(3)]
    assert admitted(scheduler, 3) == ["slow 0", "slow 1"]
    urgent = scheduler.add("urgent", [70] * 8)
    assert scheduler.position(urgent) == 1
    assert admitted(scheduler) == ["slow 0", "urgent"]
    assert (scheduler.preemptions, slow[1].preemptions) == (1, 1)
    scheduler.remove(urgent)
    assert admitted(scheduler) == ["slow 0", "slow 1"]  # the one that had to go comes back before the next
    scheduler.add("also slow", [80] * 8, priority=1)
    assert admitted(scheduler) == ["slow 0", "slow 1"]


def test_prompts_share_what_they_are_given_beside_decodes() -> None:
    scheduler = Scheduler[str](PagePool(100), max_step_tokens=64, max_running=8, page_tokens=PAGE)
    scheduler.add("decoding", [1])
    admitted(scheduler)
    for index in range(3):
        scheduler.add(f"long {index}", [index] * 20)
    plan = scheduler.plan(prompt_tokens=12)
    assert [(sequence.owner, count) for sequence, count in plan.work] == [("decoding", 1), ("long 0", 12)]
    scheduler.commit(plan)
    plan.work[0][0].tokens.append(1)
    plan = scheduler.plan(prompt_tokens=12)
    assert [(sequence.owner, count) for sequence, count in plan.work] == [
        ("decoding", 1), ("long 0", 8), ("long 1", 4),
    ]  # fmt: skip
