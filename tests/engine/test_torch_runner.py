"""PyTorch's runner on real architectures: pages against the contiguous twin, and the engine against itself."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from fathom.engine import Engine, SequenceStep
from fathom.engine.torch_runner import TorchRunner
from fathom.models.cache import ContiguousCache, NoCache
from fathom.models.transformer import Transformer

ARCHITECTURES = ("llama", "qwen2", "deepseek_v2", "deepseek_v3")
STATM = Path("/proc/self/statm")
TOLERANCE = 2e-5


def prompts(count: int, longest: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(11)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    return [torch.randint(0, 256, (length,), generator=generator).tolist() for length in lengths]


@torch.no_grad()
def whole(model: Transformer, ids: Sequence[int]) -> torch.Tensor:
    """Logits of every position, without any cache."""
    tokens_N = torch.tensor(ids)
    return model.logits(model(tokens_N, torch.arange(len(ids)), NoCache(1, len(ids))))


@torch.no_grad()
def greedy(model: Transformer, prompt: Sequence[int], count: int) -> tuple[int, ...]:
    """Generate over the contiguous cache, one sequence, one token at a time."""
    cache = ContiguousCache(model.config, 1, len(prompt) + count)
    tokens, new = list(prompt), list(prompt)
    for _ in range(count):
        positions_N = cache.extend([len(new)])
        hidden_ND = model(torch.tensor(new), positions_N, cache)
        new = [int(model.logits(hidden_ND[-1:]).argmax())]
        tokens += new
    return tuple(tokens[len(prompt) :])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_pages_chunks_and_mixed_steps_give_the_logits_of_the_whole(
    tiny_models: dict[str, Transformer], name: str
) -> None:
    model = tiny_models[name]
    runner = TorchRunner(model, n_pages=9, max_context=512, page_tokens=8)
    first, second, third = prompts(3, 24)
    pages = {0: [7, 2, 5], 1: [1, 8, 3], 2: [4, 0, 6]}
    a, b = len(first) // 2, len(second) - 1
    runner.step([SequenceStep(second[:b], 0, pages[1], b)])
    runner.step([SequenceStep(first[:a], 0, pages[0], a), SequenceStep(third[:-1], 0, pages[2], len(third) - 1)])
    logits = runner.step(
        [
            SequenceStep(second[b:], b, pages[1], 0),
            SequenceStep(third[-1:], len(third) - 1, pages[2], 0),
            SequenceStep(first[a:], a, pages[0], 0),
        ]
    )
    expected = torch.cat([whole(model, second)[b:], whole(model, third)[-1:], whole(model, first)[a:]])
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_greedy_tokens_depend_on_the_prompt_alone(
    tiny_models: dict[str, Transformer], make_engine: Callable[..., Engine], name: str
) -> None:
    model, count = tiny_models[name], 16
    asked = prompts(8, 60)
    expected = [greedy(model, prompt, count) for prompt in asked]

    def generate(engine: Engine, prompt: Sequence[int]) -> tuple[int, ...]:
        return engine.generate(prompt=prompt, max_tokens=count, temperature=0.0, ignore_eos=True).tokens

    roomy = make_engine(TorchRunner(model, n_pages=64, max_context=512, page_tokens=16), max_step_tokens=512)
    assert [generate(roomy, prompt) for prompt in asked] == expected  # alone, whole prefill, cold
    assert [generate(roomy, prompt) for prompt in asked] == expected  # over the cached prefix
    tight = make_engine(
        TorchRunner(model, n_pages=12, max_context=96, page_tokens=8), max_step_tokens=11, max_running=8
    )
    with ThreadPoolExecutor(8) as pool:  # together, in small chunks, with too few pages for all
        assert list(pool.map(lambda prompt: generate(tight, prompt), asked)) == expected


def test_preempted_requests_of_a_real_model_lose_no_token(
    tiny_models: dict[str, Transformer], make_engine: Callable[..., Engine]
) -> None:
    model = tiny_models["deepseek_v3"]
    engine = make_engine(
        TorchRunner(model, n_pages=9, max_context=72, page_tokens=8), max_step_tokens=64, max_running=4
    )
    asked = [[index] * 5 for index in range(4)]
    finished: dict[int, Any] = {}
    done = threading.Semaphore(0)
    for index, prompt in enumerate(asked):
        request = engine.request(prompt=prompt, max_tokens=40, temperature=0.0, ignore_eos=True)

        def receive(event: Any, index: int = index) -> None:
            if hasattr(event, "reason"):
                finished[index] = event.tokens
                done.release()

        engine.submit(request, receive)
    for _ in asked:
        assert done.acquire(timeout=60)
    assert engine.stats().load.preemptions > 0
    assert [finished[index] for index in range(4)] == [greedy(model, prompt, 40) for prompt in asked]


@pytest.mark.skipif(not STATM.exists(), reason="resident memory is read from Linux's /proc")
def test_the_cache_takes_no_memory_before_it_is_used(tiny_models: dict[str, Transformer]) -> None:
    def resident() -> int:
        return int(STATM.read_text().split()[1]) * 4096

    before = resident()
    runner = TorchRunner(tiny_models["llama"], n_pages=2**17, max_context=512)
    assert runner.n_pages * runner.bytes_per_page == 2**31
    assert runner.step([SequenceStep([1, 2, 3], 0, [2**17 - 1], 2)]).shape == (1, 260)
    assert resident() - before < 2**28


def test_a_closed_runner_says_so(tiny_models: dict[str, Transformer]) -> None:
    runner = TorchRunner(tiny_models["llama"], n_pages=1, max_context=64)
    runner.close()
    with pytest.raises(RuntimeError, match="closed"):
        runner.step([SequenceStep([1], 0, [0], 0)])
