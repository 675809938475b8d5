"""Loads put on an engine, and what came of them."""

import random
import resource
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from fathom.engine import Engine, Finished, SamplingParams

FIRST_ORDINARY_ID = 100  # below lie control tokens in most vocabularies


@dataclass(frozen=True, slots=True)
class Load:
    """So many sequences at once, each with a prompt of so many random tokens and so many generated ones."""

    sequences: int
    prompt: int
    tokens: int


@dataclass(slots=True)
class Measured:
    """Times of one load, in seconds from its first submission, one of each sequence."""

    load: Load
    firsts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)  # between two tokens of a sequence

    @property
    def first_token_seconds(self) -> float:
        """Until the first token of the first sequence."""
        return min(self.firsts)

    def rate(self, kind: str) -> float:
        """Tokens per second: generated after the last first token, of prompts until then, or all in all."""
        load, last_first, end = self.load, max(self.firsts), max(self.ends)
        if kind == "prefill":
            return load.sequences * load.prompt / last_first
        if kind == "serve":
            return load.sequences * (load.prompt + load.tokens) / end
        return load.sequences * (load.tokens - 1) / (end - last_first) if load.tokens > 1 else 1 / end


def random_prompt(engine: Engine, tokens: int, seed: str) -> list[int]:
    """Token ids that no cache has seen."""
    numbers = random.Random(seed)
    lowest = min(FIRST_ORDINARY_ID, engine.runner.vocab_size - 1)
    return [numbers.randrange(lowest, engine.runner.vocab_size) for _ in range(tokens)]


def measure(engine: Engine, load: Load, *, seed: int) -> Measured:
    """Put a load on the engine and wait for its end."""
    measured = Measured(load, [0.0] * load.sequences, [0.0] * load.sequences)
    done = threading.Semaphore(0)
    failures: list[str] = []
    start = time.perf_counter()

    def receiver(index: int) -> Any:
        last = 0.0

        def receive(event: object) -> None:
            nonlocal last
            now = time.perf_counter() - start
            if measured.firsts[index]:
                measured.gaps.append(now - last)
            else:
                measured.firsts[index] = now
            last = now
            if isinstance(event, Finished):
                measured.ends[index] = now
                if event.error is not None:
                    failures.append(event.error)
                done.release()

        return receive

    params = SamplingParams(max_tokens=load.tokens, temperature=0.0, ignore_eos=True)
    for index in range(load.sequences):
        prompt = random_prompt(engine, load.prompt, f"{seed} {index}")
        engine.submit(engine.request(prompt=prompt, params=params), receiver(index))
    for _ in range(load.sequences):
        done.acquire()
    if failures:
        raise RuntimeError(f"the engine failed: {failures[0]}")
    return measured


def peak_memory_bytes() -> int:
    """Most memory that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
