"""Adapters through the engine: chosen per request, updated while others run, never sharing pages across weights."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fathom.engine import Engine, SequenceStep
from fathom.engine.errors import EngineClosedError, EngineError, InvalidRequestError
from fathom.engine.request import Finished, Request
from fathom.engine.sampling import SamplingParams
from fathom.engine.torch_runner import TorchRunner
from fathom.models.lora import Adapter, fresh, merge
from fathom.models.transformer import Transformer

PROMPT = tuple(range(40, 40 + 140))  # two full pages and a bit


def adapter_for(model: Transformer, seed: int, rank: int = 3) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    adapter = fresh(model, rank, 2.0 * rank, generator=generator)
    pairs = {name: (a, torch.randn(b.shape, generator=generator)) for name, (a, b) in adapter.pairs.items()}
    return Adapter(adapter.scale, pairs)


def answer(engine: Engine, adapter: str | None, prompt: tuple[int, ...] = PROMPT) -> Finished:
    """The last event of a greedy request."""
    options: dict[str, Any] = {"max_tokens": 6, "temperature": 0.0, "ignore_eos": True}
    *_, last = engine.stream(prompt=prompt, adapter=adapter, **options)
    assert isinstance(last, Finished)
    assert last.reason == "length", last.error
    return last


def alone(model: Transformer, adapter: Adapter | None) -> tuple[int, ...]:
    """What a model with the adapter merged into it answers, token by token."""
    if adapter is not None:
        changed = Transformer(model.config)
        changed.load_state_dict(model.state_dict())
        merge(changed, adapter)
        model = changed
    runner = TorchRunner(model, n_pages=4, max_context=256)
    ids = list(PROMPT)
    for _ in range(6):
        ids.append(int(runner.step([SequenceStep(ids, 0, range(4), len(ids) - 1)]).argmax()))
    return tuple(ids[len(PROMPT) :])


@pytest.fixture(params=["llama", "qwen2", "deepseek_v2", "deepseek_v3"])
def model(request, tiny_models) -> Transformer:
    return tiny_models[request.param]


@pytest.fixture
def engine(model, make_engine) -> Engine:
    return make_engine(TorchRunner(model, n_pages=32, max_context=512))


def test_each_request_runs_with_its_adapter(engine, model) -> None:
    adapters = {"a": adapter_for(model, 1), "b": adapter_for(model, 2, rank=5)}
    for name, adapter in adapters.items():
        engine.add_adapter(name, adapter)
    assert engine.adapters == ("a", "b")
    expected = {None: alone(model, None)} | {name: alone(model, adapter) for name, adapter in adapters.items()}
    assert len(set(expected.values())) == 3
    done: dict[str | None, tuple[int, ...]] = {}
    over = threading.Semaphore(0)

    def listener(name: str | None) -> Callable[[Any], None]:
        def on_event(event: Any) -> None:
            if isinstance(event, Finished):
                done[name] = event.tokens
                over.release()

        return on_event

    for name in expected:
        params = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
        engine.submit(engine.request(prompt=PROMPT, adapter=name, params=params), listener(name))
    for _ in expected:
        assert over.acquire(timeout=30)
    assert done == expected


def test_pages_are_shared_under_the_same_weights_only(engine, model) -> None:
    first, second = adapter_for(model, 1), adapter_for(model, 2)
    engine.add_adapter("a", first)
    engine.add_adapter("b", first)
    assert answer(engine, "a").usage.cached_tokens == 0
    again = answer(engine, "a")
    assert again.usage.cached_tokens == 128
    assert again.tokens == alone(model, first)
    assert answer(engine, "b").usage.cached_tokens == 0
    assert answer(engine, None).usage.cached_tokens == 0
    engine.update_adapter("a", second)
    updated = answer(engine, "a")
    assert updated.usage.cached_tokens == 0
    assert updated.tokens == alone(model, second)
    engine.update_adapter("a", first)
    assert answer(engine, "a").usage.cached_tokens == 0


def test_a_request_keeps_the_weights_it_began_with(model, make_engine) -> None:
    runner = TorchRunner(model, n_pages=32, max_context=512)
    engine = make_engine(runner)
    first, second = adapter_for(model, 1), adapter_for(model, 2)
    engine.add_adapter("a", first)
    stream = engine.stream(prompt=PROMPT, adapter="a", max_tokens=300, temperature=0.0, ignore_eos=True)
    next(stream)
    engine.update_adapter("a", second)
    assert answer(engine, "a").tokens == alone(model, second)
    engine.remove_adapter("a")
    with pytest.raises(InvalidRequestError, match="no adapter 'a'"):
        engine.request(prompt=PROMPT, adapter="a") and answer(engine, "a")
    *_, last = stream
    assert last.reason == "length"
    assert last.tokens[:6] == alone(model, first)
    engine.add_adapter("c", first)
    assert runner._adapters.keys() == {0}  # the others' numbers were free again


def test_mistakes_are_named(engine, model) -> None:
    adapter = adapter_for(model, 1)
    with pytest.raises(InvalidRequestError, match="no adapter 'a'; loaded are none"):
        engine.update_adapter("a", adapter)
    with pytest.raises(InvalidRequestError, match="no adapter 'a'"):
        engine.remove_adapter("a")
    engine.add_adapter("a", adapter)
    with pytest.raises(InvalidRequestError, match="update_adapter"):
        engine.add_adapter("a", adapter)
    with pytest.raises(InvalidRequestError, match="no adapter 'b'; loaded are a"):
        answer(engine, "b")
    wrong = Adapter(1.0, {"lm_head": (torch.zeros(2, 32), torch.zeros(260, 2))})
    with pytest.raises(InvalidRequestError, match="lm_head"):
        engine.update_adapter("a", wrong)
    assert answer(engine, "a").tokens == alone(model, adapter)
    with pytest.raises(InvalidRequestError, match="lm_head"):
        engine.add_adapter("b", wrong)
    assert engine.adapters == ("a",)


def test_adapters_are_not_changed_from_the_engines_own_thread(engine, model) -> None:
    adapter, seen = adapter_for(model, 1), []

    def on_event(event: Any) -> None:
        try:
            engine.add_adapter("a", adapter)
        except EngineError as error:
            seen.append(str(error))
        over.set()

    over = threading.Event()
    request: Request = engine.request(prompt=PROMPT, max_tokens=1)
    engine.submit(request, on_event)
    assert over.wait(30)
    assert "own thread" in seen[0]


def test_a_closed_engine_takes_no_adapter(engine, model) -> None:
    engine.close()
    with pytest.raises(EngineClosedError):
        engine.add_adapter("a", adapter_for(model, 1))
