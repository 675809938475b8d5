"""The engine on a mock model whose next token depends on everything that it reads back from its pages."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.engine import Engine, EngineEvent, Finished, TokenLogprobs
from fathom.engine.core import EngineCore
from fathom.engine.errors import (
    EngineClosedError,
    EngineError,
    InvalidRequestError,
    PromptTooLongError,
    QueueFull,
    RequestFailedError,
)
from fathom.engine.scheduler import Scheduler
from fathom.engine.stats import EngineLimits
from fathom.text import Answer, Message, Thought

MakeEngine = Callable[..., Engine]


class Receiver:
    """Collects events; `finished` waits for the last."""

    def __init__(self) -> None:
        self.events: list[EngineEvent] = []
        self._over = threading.Event()

    def __call__(self, event: EngineEvent) -> None:
        self.events.append(event)
        if isinstance(event, Finished):
            self._over.set()

    def finished(self) -> Finished:
        assert self._over.wait(20), "no Finished event came"
        last = self.events[-1]
        assert isinstance(last, Finished)
        return last


class Gate:
    """Lets the mock runner take steps one by one."""

    def __init__(self, runner: Any) -> None:
        self._steps = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        runner.before_step = self._wait

    def _wait(self, _: Sequence[Any]) -> None:
        self.entered.release()
        assert self._steps.acquire(timeout=20)

    def open(self, steps: int = 1_000_000) -> None:
        self._steps.release(steps)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.002)


def test_a_plain_prompt_is_continued_and_accounted_for(make_engine: MakeEngine, mock: Any) -> None:
    completion = make_engine().generate(prompt="hello", max_tokens=9, temperature=0.0)
    assert completion.tokens == mock.expected(b"hello", 9)
    assert completion.content == mock.tokenizer().decode(completion.tokens)
    finished = completion.finished
    assert (finished.reason, finished.error, finished.stop_string) == ("length", None, None)
    assert (finished.usage.prompt_tokens, finished.usage.completion_tokens, finished.usage.cached_tokens) == (5, 9, 0)
    timings = finished.timings
    assert timings.queue_seconds is not None
    assert timings.first_token_seconds is not None
    assert timings.queue_seconds <= timings.first_token_seconds <= timings.total_seconds


def test_the_end_token_ends_it_unless_ignored(make_engine: MakeEngine, mock: Any) -> None:
    engine = make_engine(mock.Runner(lambda context: 65 if len(context) < 4 else mock.eos))
    completion = engine.generate(prompt="x", temperature=0.0)
    assert (completion.content, completion.finished.reason) == ("AAA", "stop")
    assert completion.tokens == (65, 65, 65, mock.eos)
    longer = engine.generate(prompt="x", temperature=0.0, ignore_eos=True, max_tokens=6)
    assert (longer.content, longer.finished.reason, len(longer.tokens)) == ("AAA", "length", 6)


def test_streamed_and_whole_are_the_same_events(make_engine: MakeEngine) -> None:
    engine = make_engine()
    streamed = list(engine.stream("question", thinking=True, max_tokens=20, temperature=0.0))
    whole = engine.generate("question", thinking=True, max_tokens=20, temperature=0.0)
    assert "".join(event.text for event in streamed if isinstance(event, Thought)) == whole.reasoning_content
    assert isinstance(streamed[-1], Finished)
    assert streamed[-1].tokens == whole.tokens


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_results_do_not_depend_on_neighbours_chunks_cache_or_preemption(mock: Any, data: st.DataObject) -> None:
    n_pages = data.draw(st.integers(8, 40), "pages")
    runner = mock.Runner(n_pages=n_pages, page_tokens=4, max_context=32)
    budget = data.draw(st.integers(4, 40), "step tokens")
    prompt = st.lists(st.sampled_from([1, 2]), min_size=1, max_size=20)
    requests = data.draw(st.lists(st.tuples(prompt, st.integers(1, 11)), min_size=1, max_size=12), "requests")
    limits = EngineLimits(max_step_tokens=budget, max_running=data.draw(st.integers(1, 4)))
    with Engine(runner, mock.tokenizer(), None, model_name="mock", limits=limits) as engine:  # type: ignore[arg-type]
        receivers = [Receiver() for _ in requests]
        for (ids, count), receiver in zip(requests, receivers, strict=True):
            engine.submit(engine.request(prompt=ids, max_tokens=count, temperature=0.0), receiver)
        for (ids, count), receiver in zip(requests, receivers, strict=True):
            assert receiver.finished().tokens == mock.expected(ids, count)
        assert engine.stats().load.pages_held == 0


def test_preemption_changes_no_token(make_engine: MakeEngine, mock: Any) -> None:
    engine = make_engine(mock.Runner(n_pages=12, page_tokens=4, max_context=48), max_step_tokens=16, max_running=6)
    receivers = [Receiver() for _ in range(6)]
    for index, receiver in enumerate(receivers):
        engine.submit(engine.request(prompt=[index] * 3, max_tokens=40, temperature=0.0), receiver)
    for index, receiver in enumerate(receivers):
        assert receiver.finished().tokens == mock.expected([index] * 3, 40)
    assert engine.stats().load.preemptions > 0


def test_a_cached_prefix_is_counted_and_not_computed_again(make_engine: MakeEngine, mock: Any) -> None:
    engine = make_engine()
    prompt = [7] * 200
    cold = engine.generate(prompt=prompt, max_tokens=4, temperature=0.0)
    computed = engine.stats().load.counts.computed_tokens
    warm = engine.generate(prompt=prompt, max_tokens=4, temperature=0.0)
    other = engine.generate(prompt=prompt, max_tokens=4, temperature=0.0, salt="somebody else")
    assert cold.tokens == warm.tokens == other.tokens == mock.expected(prompt, 4)
    assert [one.finished.usage.cached_tokens for one in (cold, warm, other)] == [0, 192, 0]
    assert computed == 203
    assert engine.stats().load.counts.computed_tokens == 203 + (203 - 192) + 203


def test_long_prompts_run_in_chunks_between_the_decodes(make_engine: MakeEngine, mock: Any) -> None:
    runner = mock.Runner()
    gate = Gate(runner)
    engine = make_engine(runner, max_step_tokens=32, max_running=4)
    first, second = Receiver(), Receiver()
    engine.submit(engine.request(prompt=[1], max_tokens=8, temperature=0.0), first)
    assert gate.entered.acquire(timeout=20)
    engine.submit(engine.request(prompt=[2] * 70, max_tokens=1, temperature=0.0), second)
    gate.open()
    first.finished()
    second.finished()
    assert runner.steps[:4] == [[1], [1, 31], [1, 31], [1, 8]]


def test_a_stop_string_ends_the_answer_and_is_never_shown(make_engine: MakeEngine, mock: Any) -> None:
    text = b"one two three"
    engine = make_engine(mock.Runner(lambda context: text[len(context) - 1]))
    completion = engine.generate(prompt="x", temperature=0.0, stop=("two th", "zzz"), max_tokens=13, logprobs=1)
    assert completion.content == "one "
    assert (completion.finished.reason, completion.finished.stop_string) == ("stop", "two th")
    assert completion.finished.usage.completion_tokens == 10
    assert bytes(one.token for one in completion.logprobs) == b"one "
    unfinished = engine.generate(prompt="x", temperature=0.0, stop=("threexyz",), max_tokens=13, logprobs=0)
    assert unfinished.content == "one two three"  # what was held back comes at the end
    assert len(unfinished.logprobs) == 13


def test_stop_strings_do_not_act_on_thoughts(make_engine: MakeEngine, mock: Any) -> None:
    answer = [*b"a stop b", mock.think_end, *b"c stop d", mock.eos]
    engine = make_engine(mock.Runner(lambda context: answer[len(context) - 1]))
    completion = engine.generate("q", thinking=True, temperature=0.0, stop=("stop",))
    assert (completion.reasoning_content, completion.content) == ("a stop b", "c ")
    assert completion.finished.usage.thought_tokens == 8


def test_a_thought_over_its_budget_is_ended_and_an_answer_follows(make_engine: MakeEngine, mock: Any) -> None:
    def script(context: Sequence[int]) -> int:
        return mock.eos if context[-1] == ord("!") else ord("!") if mock.think_end in context else ord("t")

    engine = make_engine(mock.Runner(script))
    completion = engine.generate("q", thinking=True, temperature=0.0, max_thought_tokens=5, max_tokens=50)
    assert (completion.reasoning_content, completion.content.strip(), completion.finished.reason) == (
        "ttttt",
        "!",
        "stop",
    )
    with pytest.raises(InvalidRequestError, match="max_thought_tokens"):
        engine.generate("q", thinking=True, max_thought_tokens=0)


def test_a_thought_is_ended_on_demand_and_an_answer_follows(make_engine: MakeEngine, mock: Any) -> None:
    """Who reads has seen enough of it; asking again, or when no thought runs, changes nothing."""

    def script(context: Sequence[int]) -> int:
        return mock.eos if context[-1] == ord("!") else ord("!") if mock.think_end in context else ord("t")

    engine = make_engine(mock.Runner(script))
    events: list[Any] = []
    ready, over = threading.Event(), threading.Event()

    def on_event(event: Any) -> None:
        events.append(event)
        if isinstance(event, Thought) and len(events) == 3:
            ready.wait(10)
            ticket.answer_now()
        if isinstance(event, Finished):
            over.set()

    ticket = engine.submit(engine.request("q", thinking=True, temperature=0.0, max_tokens=50), on_event)
    ready.set()
    assert over.wait(10)
    ticket.answer_now()
    thought = "".join(event.text for event in events if isinstance(event, Thought))
    answer = "".join(event.text for event in events if isinstance(event, Answer))
    assert (thought, answer.strip(), events[-1].reason) == ("ttt", "!", "stop")


def test_logprobs_precede_the_text_of_their_token(make_engine: MakeEngine) -> None:
    events = list(make_engine().stream("q", thinking=True, temperature=0.0, max_tokens=3, logprobs=2))
    kinds = [type(event) for event in events]
    assert kinds == [TokenLogprobs, Thought] * 3 + [Finished]
    first = events[0]
    assert isinstance(first, TokenLogprobs)
    assert first.thought
    assert first.alternatives[0] == (first.token, first.logprob)


def test_seeded_samples_are_the_same_alone_and_among_others(make_engine: MakeEngine) -> None:
    engine = make_engine(max_step_tokens=16, max_running=8)

    def ask(seed: int) -> tuple[int, ...]:
        bias = dict.fromkeys(range(97, 123), 10.0)
        return engine.generate(prompt="q", max_tokens=12, seed=seed, logit_bias=bias, top_p=0.95).tokens

    alone = [ask(seed) for seed in range(8)]
    assert len(set(alone)) == 8
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == alone


def test_cancelling_frees_the_pages_within_a_step(make_engine: MakeEngine, mock: Any) -> None:
    runner = mock.Runner()
    gate = Gate(runner)
    engine = make_engine(runner)
    running, waiting = Receiver(), Receiver()
    ticket = engine.submit(engine.request(prompt=[1] * 300, max_tokens=1000, temperature=0.0), running)
    assert gate.entered.acquire(timeout=20)
    other = engine.submit(engine.request(prompt=[2] * 300, max_tokens=1000, temperature=0.0), waiting)
    ticket.cancel()
    other.cancel()
    ticket.cancel()  # twice does no harm
    gate.open(1)
    assert running.finished().reason == waiting.finished().reason == "cancelled"
    assert engine.stats().load.pages_held == 0
    assert len(runner.steps) == 1
    assert [event for event in running.events if not isinstance(event, Finished)] == []


def test_closing_a_stream_cancels_it(make_engine: MakeEngine) -> None:
    engine = make_engine()
    stream = engine.stream("q", max_tokens=4000, temperature=0.0)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    wait_until(lambda: engine.stats().load.running == 0)
    assert engine.stats().load.counts.finished == {"cancelled": 1}


async def test_many_async_streams_at_once_and_a_cancelled_task(make_engine: MakeEngine, mock: Any) -> None:
    engine = make_engine(max_step_tokens=64, max_running=16)

    async def ask(index: int) -> tuple[int, ...]:
        async for event in engine.astream(prompt=[index], max_tokens=20, temperature=0.0):
            if isinstance(event, Finished):
                return event.tokens
        raise AssertionError

    forever = asyncio.create_task(_read_all(engine))
    results = await asyncio.gather(*(ask(index) for index in range(40)))
    assert results == [mock.expected([index], 20) for index in range(40)]
    forever.cancel()
    with pytest.raises(asyncio.CancelledError):
        await forever
    await asyncio.to_thread(wait_until, lambda: engine.stats().load.running == 0)


async def _read_all(engine: Engine) -> None:
    async for _ in engine.astream(prompt=[99], max_tokens=4000, temperature=0.0):
        pass


def test_the_queue_is_bounded_in_requests_and_tokens(make_engine: MakeEngine, mock: Any) -> None:
    runner = mock.Runner()
    gate = Gate(runner)
    engine = make_engine(runner, max_running=1, max_step_tokens=8, max_queued_requests=3, max_queued_tokens=20)
    receivers = [Receiver() for _ in range(4)]

    def submit(receiver: Receiver, length: int = 4) -> Any:
        return engine.submit(engine.request(prompt=[1] * length, max_tokens=2, temperature=0.0), receiver)

    tickets = [submit(receivers[0])]
    assert gate.entered.acquire(timeout=20)
    tickets += [submit(receiver) for receiver in receivers[1:3]]
    with pytest.raises(QueueFull, match="prompt tokens"):
        submit(Receiver(), 13)
    tickets.append(submit(receivers[3]))
    assert [ticket.position() for ticket in tickets] == [0, 1, 2, 3]
    with pytest.raises(QueueFull):
        submit(Receiver())
    assert engine.stats().load.counts.requests == 4
    gate.open()
    assert {receiver.finished().reason for receiver in receivers} == {"length"}
    assert [ticket.position() for ticket in tickets] == [0, 0, 0, 0]


def test_what_does_not_fit_is_refused_and_never_clipped(make_engine: MakeEngine, mock: Any) -> None:
    narrow = make_engine(mock.Runner(max_context=100))
    with pytest.raises(PromptTooLongError, match=r"100 tokens.*context of 100"):
        narrow.generate(prompt=[1] * 100)
    small = make_engine(mock.Runner(n_pages=1))
    with pytest.raises(PromptTooLongError, match=r"cache of 64.*more memory"):
        small.generate(prompt=[1] * 64)
    last = small.generate(prompt=[1] * 60, temperature=0.0)
    assert (last.finished.reason, len(last.tokens)) == ("length", 4)
    for bad, message in (({"prompt": []}, "empty"), ({"prompt": [300]}, "token id"), ({}, "messages")):
        with pytest.raises(InvalidRequestError, match=message):
            small.generate(**bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="logit_bias"):
        small.generate(prompt="x", logit_bias={5000: 1.0})
    with pytest.raises(InvalidRequestError, match="plain prompt"):
        small.generate([Message("user", "x")], prompt="x")
    assert small.stats().load.counts.requests == 1


def test_a_failing_step_fails_its_requests_and_the_engine_goes_on(
    make_engine: MakeEngine, mock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    runner = mock.Runner()
    engine = make_engine(runner)

    def fail(_: object) -> None:
        raise RuntimeError("out of luck")

    good = runner.before_step
    for failures in range(1, 4):
        runner.before_step = fail
        with pytest.raises(RequestFailedError, match="out of luck"):
            engine.generate(prompt="x")
        assert engine.stats().load.healthy == (failures < 3)
    assert "out of luck" in caplog.text
    runner.before_step = good
    assert engine.generate(prompt="x", max_tokens=2, temperature=0.0).tokens == mock.expected(b"x", 2)
    load = engine.stats().load
    assert (load.healthy, load.counts.failed_steps, load.pages_held) == (True, 3, 0)


def test_logits_that_are_not_finite_fail_only_their_request(make_engine: MakeEngine, mock: Any) -> None:
    runner = mock.Runner()
    step = runner.step

    def broken(sequences: Sequence[Any]) -> Any:
        logits = step(sequences)
        for row, one in enumerate(sequences):
            if one.tokens[-1] == 13:
                logits[row] = float("nan")
        return logits

    runner.step = broken
    engine = make_engine(runner)
    good, bad = Receiver(), Receiver()
    engine.submit(engine.request(prompt=[1], max_tokens=3, temperature=0.0), good)
    engine.submit(engine.request(prompt=[13], max_tokens=3, temperature=0.0), bad)
    assert good.finished().reason == "length"
    assert bad.finished().reason == "error"
    assert "not finite" in str(bad.finished().error)


def test_a_receiver_that_raises_is_cut_off_and_harms_nobody(make_engine: MakeEngine, mock: Any) -> None:
    engine = make_engine()

    def refuse(_: EngineEvent) -> None:
        raise OSError("gone")

    engine.submit(engine.request(prompt="x", max_tokens=4000, temperature=0.0), refuse)
    assert engine.generate(prompt="y", max_tokens=3, temperature=0.0).tokens == mock.expected(b"y", 3)
    wait_until(lambda: engine.stats().load.counts.finished["cancelled"] == 1)


def test_closing_cancels_or_drains_and_then_refuses(mock: Any, make_engine: MakeEngine) -> None:
    for drain, reason in ((False, "cancelled"), (True, "length")):
        runner = mock.Runner()
        gate = Gate(runner)
        engine = make_engine(runner)
        receiver = Receiver()
        engine.submit(engine.request(prompt="x", max_tokens=5, temperature=0.0), receiver)
        assert gate.entered.acquire(timeout=20)
        closing = threading.Thread(target=engine.close, kwargs={"drain": drain})
        closing.start()
        wait_until(lambda engine=engine: not engine.stats().load.healthy)  # type: ignore[misc]
        gate.open()
        closing.join(20)
        assert receiver.finished().reason == reason
        assert runner.closed
        with pytest.raises(EngineClosedError):
            engine.generate(prompt="x")
        engine.close()  # twice does no harm


def test_closing_from_the_engines_own_thread_is_an_error_not_a_deadlock(make_engine: MakeEngine) -> None:
    engine = make_engine()
    errors: list[Exception] = []

    def close(event: EngineEvent) -> None:
        if isinstance(event, Answer):
            try:
                engine.close()
            except EngineError as error:
                errors.append(error)

    receiver = Receiver()
    engine.submit(engine.request(prompt="x", max_tokens=1), lambda event: (close(event), receiver(event)))  # type: ignore[func-returns-value]
    receiver.finished()
    assert len(errors) == 1


def test_an_engine_that_cannot_go_on_says_so_and_ends_everything(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()

    def broken(*_: object) -> None:
        raise AssertionError("the books do not balance")

    monkeypatch.setattr(Scheduler, "commit", broken)
    with pytest.raises(RequestFailedError, match="books"):
        engine.generate(prompt="x")
    assert "books" in str(engine.stats().load.failure)
    with pytest.raises(EngineClosedError, match="books"):
        engine.generate(prompt="x")


def test_an_idle_engine_does_nothing(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    look = EngineCore._has_something_to_do
    monkeypatch.setattr(EngineCore, "_has_something_to_do", lambda core: (looks.append(1), look(core))[1])
    engine = make_engine()
    engine.generate(prompt="x", max_tokens=2)
    wait_until(lambda: engine.stats().load.running == 0)
    time.sleep(0.05)
    before = len(looks)
    time.sleep(0.2)
    assert len(looks) == before
    assert engine.stats().load.counts.steps == 2


def test_an_urgent_request_takes_a_place_and_nobody_loses_a_token(make_engine: MakeEngine, mock: Any) -> None:
    runner = mock.Runner()
    gate = Gate(runner)
    engine = make_engine(runner, max_running=2, max_step_tokens=16)
    slow = [Receiver() for _ in range(3)]
    for index, receiver in enumerate(slow):
        engine.submit(engine.request(prompt=[index] * 70, max_tokens=20, temperature=0.0, priority=1), receiver)
    assert gate.entered.acquire(timeout=20)
    urgent = Receiver()
    ticket = engine.submit(engine.request(prompt=[9] * 5, max_tokens=3, temperature=0.0), urgent)
    assert ticket.position() == 1
    gate.open(4)
    assert urgent.finished().tokens == mock.expected([9] * 5, 3)
    gate.open()
    for index, receiver in enumerate(slow):
        assert receiver.finished().tokens == mock.expected([index] * 70, 20)
    assert engine.stats().load.preemptions == 0  # there was a second place; the third slow one waited longer


def test_a_crowd_of_one_user_lets_another_in(make_engine: MakeEngine, mock: Any) -> None:
    runner = mock.Runner()
    gate = Gate(runner)
    engine = make_engine(runner, max_running=1, max_step_tokens=64)
    ended: list[str] = []

    def receiver(name: str) -> Callable[[EngineEvent], None]:
        return lambda event: ended.append(name) if isinstance(event, Finished) else None

    for index in range(5):
        request = engine.request(prompt=[index] * 9, max_tokens=2, temperature=0.0, salt="crowd")
        engine.submit(request, receiver(f"crowd {index}"))
    assert gate.entered.acquire(timeout=20)
    engine.submit(engine.request(prompt=[7] * 9, max_tokens=2, temperature=0.0, salt="single"), receiver("single"))
    gate.open()
    wait_until(lambda: len(ended) == 6)
    assert ended.index("single") <= 2


def test_after_a_thought_was_ended_the_answer_is_not_empty(make_engine: MakeEngine, mock: Any) -> None:
    """The model wants to stop, or to end the thought again, at once: the next best token comes instead."""
    for wish in (mock.eos, mock.think_end):

        def script(context: Sequence[int], wish: int = wish) -> int:
            if mock.think_end not in context:
                return ord("t")
            said = (
                len(context) - list(context).index(mock.think_end) - 3
            )  # after the end of the thought and two newlines
            return wish if said == 0 else mock.eos

        engine = make_engine(mock.Runner(script))
        completion = engine.generate("q", thinking=True, temperature=0.0, max_tokens=900, max_thought_tokens=5)
        assert len(completion.content) == 3
        assert completion.finished.reason == "stop"


def test_requests_queued_together_all_finish(make_engine: MakeEngine) -> None:
    engine, receivers = make_engine(), [Receiver() for _ in range(4)]
    requests = [engine.request(prompt=[5, 6, 7 + number], max_tokens=3) for number in range(4)]
    engine.submit_together(list(zip(requests, receivers, strict=True)))
    assert [len(receiver.finished().tokens) for receiver in receivers] == [3] * 4
