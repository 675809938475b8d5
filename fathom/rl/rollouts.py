"""Rollouts: groups of answers to problems, drawn by the engine, with what training needs of them."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

from fathom.data.errors import RecipeError
from fathom.engine import Engine, EngineEvent, Finished, Request, SamplingParams, TokenLogprobs
from fathom.engine.errors import RequestFailedError
from fathom.rl.problems import Problem
from fathom.rl.rewards import Said
from fathom.text import Message

Style = Literal["think", "plain", "few-shot"]
END_OF_THOUGHT = "</think>"
IN_FLIGHT = 256  # requests that are queued at once: waves, so that batches are the same in every run


@dataclass(frozen=True, slots=True)
class Rollout:
    """One answer. `logprobs` are the sampler's, one per token, None for tokens that it does not report (the stop)."""

    problem: Problem
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    said: Said


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
                seed=_seed(seed, number, sample),
                logprobs=0 if sampling.logprobs else None,
            )
            waiting.append((number, Request(prompt, params, adapter=sampling.adapter)))
    groups: list[list[Rollout]] = [[] for _ in questions]
    for start in range(0, len(waiting), IN_FLIGHT):
        wave = waiting[start : start + IN_FLIGHT]
        landing = [_Landing() for _ in wave]
        pairs = [(request, one.on_event) for (_, request), one in zip(wave, landing, strict=True)]
        engine.submit_together(pairs)
        for (number, request), one in zip(wave, landing, strict=True):
            finished = one.finished.result()
            if finished.reason in ("error", "cancelled"):
                raise RequestFailedError(f"a rollout ended with {finished.reason}: {finished.error}; see the log")
            said = read(engine, finished, sampling.style)
            places = tuple(one.logprobs[place] for place in range(min(len(one.logprobs), len(finished.tokens))))
            unknown = (None,) * (len(finished.tokens) - len(places))
            rollout = Rollout(questions[number], request.prompt.ids, finished.tokens, (*places, *unknown), said)
            groups[number].append(rollout)
    return groups


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


def read(engine: Engine, finished: Finished, style: Style) -> Said:
    """Thought and answer of an output, apart."""
    tokenizer, cut_off = engine.tokenizer, finished.reason == "length"
    tokens = [token for token in finished.tokens if token not in tokenizer.stop_ids]
    text = tokenizer.decode(tokens)
    if style != "think":
        return Said("", text.strip(), closed=True, cut_off=cut_off)
    thought, mark, answer = text.partition(END_OF_THOUGHT)
    return Said(thought.strip(), answer.strip(), closed=bool(mark), cut_off=cut_off)


def _seed(seed: int, number: int, sample: int) -> int:
    """A seed of its own for every rollout, from one for all of them."""
    return (seed * 1_000_003 + number) * 1_009 + sample


def few_shots(solved: Sequence[tuple[str, str]]) -> list[Message]:
    """Solved examples as a conversation before the question."""
    if not solved:
        raise RecipeError("few-shot prompts need solved examples")
    return [
        message for question, answer in solved for message in (Message("user", question), Message("assistant", answer))
    ]
