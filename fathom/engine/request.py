"""What goes into the engine and what comes out: requests, events, and the account at the end."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from fathom.engine.constraint import Constraint
from fathom.engine.sampling import SamplingParams
from fathom.text import Event, Prompt

FinishReason = Literal["stop", "length", "tool_calls", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to generate.

    Attributes:
        prompt: token ids and the channel the answer begins in, from `ChatTemplate.render` or `Engine.plain_prompt`.
        params: how tokens are chosen.
        plain: a text completion: every token's text is the answer, nothing is read as thought or tool call.
        salt: prefixes are shared only among requests with the same salt (a user, a tenant); None: among all without.
        priority: lower numbers go first, and take the place of higher ones where there is none left (vLLM's sense).
        max_thought_tokens: after so many tokens of thought the engine ends it in the model's name, so that an answer
            follows; None: no bound. Only for dialects with an end-of-thought token, and not with `plain`.
        adapter: name of an adapter that was added to the engine; None: the base model.
        constraint: the form that the answer must have, from `Engine.constrain`; None: free.

    """

    prompt: Prompt
    params: SamplingParams = field(default_factory=SamplingParams)
    plain: bool = False
    salt: str | None = None
    priority: int = 0
    max_thought_tokens: int | None = None
    adapter: str | None = None
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log probabilities of one chosen token in the model's own distribution; comes before the text it completes.

    Sent only when asked for (`SamplingParams.logprobs`), for every generated token that is shown: not for the stop
    token, nor for tokens of a stop string. `thought`: whether the token belongs to the thought.
    """

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...]  # (token, logprob), most probable first
    thought: bool


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """Log probabilities of the prompt's tokens from the second on, in order; comes before everything else."""

    tokens: tuple[TokenLogprobs, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request. `cached_tokens` is the part of the prompt found in the prefix cache (multiples of 64).

    `completion_tokens` counts every generated token, thought and stop token included. `drafted_tokens` were guessed
    ahead (speculative decoding), and `accepted_tokens` of them turned out to be the model's own.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    thought_tokens: int
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """How long one request took, in seconds; None where it did not get that far.

    queue_seconds: from submission to its first step. first_token_seconds: from submission to the first token.
    prefill_tokens_per_second: prompt tokens not cached, over first step to first token.
    decode_tokens_per_second: tokens after the first, over first token to last.
    """

    queue_seconds: float | None
    first_token_seconds: float | None
    total_seconds: float
    prefill_tokens_per_second: float | None
    decode_tokens_per_second: float | None


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of every request, whatever became of it.

    Attributes:
        reason: "stop": the model ended, or a stop string came; "length": max_tokens or the context is used up;
            "tool_calls": ended after calling tools; "cancelled"; "error": see `error` and the log.
        usage: tokens.
        timings: seconds and rates.
        tokens: the generated token ids, stop token included.
        stop_string: the stop string that ended it, if one did.
        error: what went wrong, when reason is "error".

    """

    reason: FinishReason
    usage: Usage
    timings: Timings
    tokens: tuple[int, ...] = ()
    stop_string: str | None = None
    error: str | None = None


EngineEvent = Event | TokenLogprobs | PromptLogprobs | Finished
OnEvent = Callable[[EngineEvent], None]
