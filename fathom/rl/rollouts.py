"""Rollouts: groups of answers to problems, drawn by the engine, with what training needs of them."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Literal, NamedTuple

from fathom.data.errors import RecipeError
from fathom.engine import Engine, EngineEvent, Finished, Request, SamplingParams, TokenLogprobs
from fathom.engine.errors import RequestFailedError
from fathom.rl.problems import Problem
from fathom.rl.rewards import Said
from fathom.text import Message, Tokenizer

Style = Literal["think", "plain", "few-shot"]
END_OF_THOUGHT = "</think>"
IN_FLIGHT = 256  # requests that are queued at once: waves, so that batches are the same in every run


@dataclass(frozen=True, slots=True)
class Rollout:
    """One answer. `logprobs` are the sampler's, one per token, None for tokens that it does not report (the stop);
    `versions` says after how many updates each token was drawn, where that is kept account of.
    """

    problem: Problem
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    said: Said
    versions: tuple[int, ...] = ()


class Drawn(NamedTuple):
    """What the sampler made of one request: `over` unless it stopped at its bound of tokens or of time."""

    tokens: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    over: bool


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn. `style`: with a thought, plainly, or after `shots` solved examples (of `Problem.entry`'s
    task, given to `prompts`). `adapter`: a name the engine knows.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    style: Style = "think"
    adapter: str | None = None
    logprobs: bool = False


def generate(
    engine: Engine,
    questions: Sequence[Problem],
    samples: int,
    sampling: Sampling,
    seed: int,
    shots: Sequence[Message] = (),
) -> list[list[Rollout]]:
    """A group of `samples` answers for every problem; the prompt of a group is computed once and shared by its pages.

    The same seed draws the same answers, whatever the order in which the engine finishes.

    Raises:
        RequestFailedError: the engine failed on a request.

    """
    waiting: list[tuple[int, Request]] = []
    for number, problem in enumerate(questions):
        messages = [*shots, Message("user", problem.question)]
        prompt = engine.render(messages, thinking=sampling.style == "think")
        for sample in range(samples):
            params = SamplingParams(
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=seed_of(seed, number, sample),
                logprobs=0 if sampling.logprobs else None,
            )
            waiting.append((number, Request(prompt, params, adapter=sampling.adapter)))
    groups: list[list[Rollout]] = [[] for _ in questions]
    drawn = draw(engine, [request for _, request in waiting])
    for (number, request), one in zip(waiting, drawn, strict=True):
        said = read(engine.tokenizer, one.tokens, sampling.style, cut_off=not one.over)
        groups[number].append(Rollout(questions[number], request.prompt.ids, one.tokens, one.logprobs, said))
    return groups


def draw(engine: Engine, requests: Sequence[Request], seconds: float | None = None) -> list[Drawn]:
    """Run requests in waves of those that start together; after `seconds` what still runs is stopped where it is.

    Raises:
        RequestFailedError: the engine failed on a request.

    """
    found = []
    end = None if seconds is None else time.monotonic() + seconds
    for start in range(0, len(requests), IN_FLIGHT):
        wave = requests[start : start + IN_FLIGHT]
        landing = [_Landing() for _ in wave]
        tickets = engine.submit_together([(one, land.on_event) for one, land in zip(wave, landing, strict=True)])
        if end is not None:
            wait([land.finished for land in landing], max(0.0, end - time.monotonic()))
            for ticket in tickets:
                ticket.cancel()
        found += [land.drawn(bounded=end is not None) for land in landing]
    return found


class _Landing:
    """Collects what comes of one request."""

    def __init__(self) -> None:
        self.logprobs: list[float] = []
        self.finished: Future[Finished] = Future()

    def on_event(self, event: EngineEvent) -> None:
        """Called in the engine's thread."""
        if isinstance(event, TokenLogprobs):
            self.logprobs.append(event.logprob)
        elif isinstance(event, Finished):
            self.finished.set_result(event)

    def drawn(self, *, bounded: bool) -> Drawn:
        """What came of it; waits for the end."""
        finished = self.finished.result()
        if finished.reason == "error" or (finished.reason == "cancelled" and not bounded):
            raise RequestFailedError(f"a rollout ended with {finished.reason}: {finished.error}; see the log")
        tokens = finished.tokens
        if finished.reason == "cancelled":
            tokens = tokens[: len(self.logprobs)]  # what was not reported yet is drawn again
        known = tuple(self.logprobs[: len(tokens)])
        over = finished.reason not in ("length", "cancelled")
        return Drawn(tokens, (*known, *(None,) * (len(tokens) - len(known))), over)


def read(tokenizer: Tokenizer, output: Sequence[int], style: Style, *, cut_off: bool) -> Said:
    """Thought and answer of an output, apart."""
    tokens = [token for token in output if token not in tokenizer.stop_ids]
    text = tokenizer.decode(tokens)
    if style != "think":
        return Said("", text.strip(), closed=True, cut_off=cut_off)
    thought, mark, answer = text.partition(END_OF_THOUGHT)
    return Said(thought.strip(), answer.strip(), closed=bool(mark), cut_off=cut_off)


def seed_of(seed: int, number: int, sample: int) -> int:
    """A seed of its own for every rollout, from one for all of them."""
    return (seed * 1_000_003 + number) * 1_009 + sample


def few_shots(solved: Sequence[tuple[str, str]]) -> list[Message]:
    """Solved examples as a conversation before the question."""
    if not solved:
        raise RecipeError("few-shot prompts need solved examples")
    return [
        message for question, answer in solved for message in (Message("user", question), Message("assistant", answer))
    ]
