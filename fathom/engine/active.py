"""One accepted request on its way: its tokens become output, its clock runs, and it knows when it is over."""

import logging
import time
from collections import deque
from collections.abc import Sequence

from fathom.engine.adapters import AdapterVersion
from fathom.engine.constraint import ConstraintState
from fathom.engine.loops import EVERY, repeats
from fathom.engine.output import Output
from fathom.engine.prompt_logprobs import PromptScores
from fathom.engine.request import (
    EngineEvent,
    Finished,
    FinishReason,
    OnEvent,
    PromptLogprobs,
    Request,
    Timings,
    TokenLogprobs,
    Usage,
)
from fathom.engine.sampler import SamplingState, TokenChoice
from fathom.engine.scheduler import ScheduledSequence
from fathom.engine.speculation import Drafting
from fathom.text import StreamParser

log = logging.getLogger("fathom.engine")


class ActiveRequest:
    """State of a request from its acceptance to its Finished event; touched by the engine's thread only.

    Args:
        request: what was asked.
        parser: turns its tokens into events.
        max_new_tokens: tokens it may generate at most, the context's end included.
        stop_ids: tokens that end it.
        end_of_thought: tokens that are forced when the thought's budget is used up, or the answer is wanted now.
        on_event: receives its events. If it raises, the request is cancelled.
        constraint: how far the answer is through the form that it must have.
        not_an_answer: tokens that an answer may not begin with after a thought was ended by force.

    """

    def __init__(
        self,
        request: Request,
        parser: StreamParser,
        *,
        max_new_tokens: int,
        stop_ids: frozenset[int],
        end_of_thought: Sequence[int],
        on_event: OnEvent,
        constraint: ConstraintState | None = None,
        not_an_answer: Sequence[int] = (),
    ) -> None:
        self.request = request
        self.sampling = SamplingState(request.params, request.prompt.ids, constraint=constraint)
        self.speculates = constraint is None  # whether its tokens may be guessed ahead: a form is followed step by step
        self.drafting: Drafting | None = None  # made when that begins
        self.adapter: AdapterVersion | None = None  # set when it is accepted
        asked = request.params.prompt_logprobs
        self.prompt_scores = None if asked is None else PromptScores(request.prompt.ids, asked)
        self.cancelled = False  # asked for, by any thread
        self.end_thought = False  # asked for, by any thread
        self.over = False
        self._output = Output(parser, request.params.stop, self._send)
        self._max_new_tokens = max_new_tokens
        self._stop_ids = stop_ids
        self._end_of_thought = end_of_thought
        self._not_an_answer = not_an_answer
        self._forced: deque[int] = deque()
        self._on_event = on_event
        self._submitted = time.monotonic()
        self._started: float | None = None
        self._first_token: float | None = None
        self._last_token: float | None = None

    def start(self) -> None:
        """Note that its first step begins."""
        if self._started is None:
            self._started = time.monotonic()

    def finish_prompt(self) -> None:
        """Send what was asked for about the prompt, once it has been read."""
        if self.prompt_scores is not None:
            scored, self.prompt_scores = self.prompt_scores.choices, None
            entries = (TokenLogprobs(one.token, one.logprob or 0.0, one.alternatives, thought=False) for one in scored)
            self._send(PromptLogprobs(tuple(entries)))

    @property
    def steered(self) -> bool:
        """Whether the next token is not, or not wholly, the model's own choice."""
        return bool(self._forced or self.sampling.banned)

    def tokens_left(self, sequence: ScheduledSequence["ActiveRequest"]) -> int:
        """How many tokens it may still generate."""
        return self._max_new_tokens - (len(sequence.tokens) - sequence.prompt_tokens)

    def take(self, choice: TokenChoice, sequence: ScheduledSequence["ActiveRequest"]) -> FinishReason | None:
        """Append the next token and send what it completes; the reason, if that ends the request."""
        if not self._forced and choice.token in self._stop_ids and self._stops_in_thought:
            self._forced.extend(self._end_of_thought)  # the turn would be over without a word of answer
        self.sampling.banned = ()
        if self._forced:
            choice = TokenChoice(self._forced.popleft())
            if not self._forced:  # an answer follows: it may not end, or go back to thinking, before it began
                self.sampling.banned = self._not_an_answer
        self._last_token = time.monotonic()
        self._first_token = self._first_token or self._last_token
        sequence.tokens.append(choice.token)
        self.sampling.observe(choice.token)
        if choice.token in self._stop_ids:
            self._output.finish()
            return "tool_calls" if self._output.calls_tools and self._output.stop_string is None else "stop"
        thought_tokens = self._output.thought_tokens
        if self._output.push(choice):
            return "stop"
        if self.sampling.constraint is not None:
            self.sampling.constraint.observe(choice.token)
        if self.tokens_left(sequence) <= 0:
            return "stop" if self._output.finish() else "length"
        if self._output.thought_tokens > thought_tokens:
            self._bound_thought(sequence.tokens)
        return None

    def end(
        self, reason: FinishReason, sequence: ScheduledSequence["ActiveRequest"], error: str | None = None
    ) -> Finished:
        """Send the Finished event, once its pages are free."""
        self.over = True
        tokens = tuple(sequence.tokens[sequence.prompt_tokens :])
        cached = sequence.cached_tokens or 0
        drafted, accepted = (self.drafting.drafted, self.drafting.accepted) if self.drafting else (0, 0)
        usage = Usage(sequence.prompt_tokens, cached, len(tokens), self._output.thought_tokens, drafted, accepted)
        timings = self._timings(sequence.prompt_tokens - cached, len(tokens))
        finished = Finished(reason, usage, timings, tokens, self._output.stop_string, error)
        self._send(finished)
        return finished

    @property
    def _stops_in_thought(self) -> bool:
        """Whether to end the turn now would leave out the answer, where one is promised (by a bound of the thought)."""
        return self.request.max_thought_tokens is not None and self._output.in_thought and bool(self._end_of_thought)

    def _bound_thought(self, tokens: Sequence[int]) -> None:
        """End a thought that is no longer wanted, too long, or goes round in circles, so that an answer follows."""
        bound, thought = self.request.max_thought_tokens, self._output.thought_tokens
        if self._forced or (bound is None and not self.end_thought):
            return
        too_long = bound is not None and (thought >= bound or (thought % EVERY == 0 and repeats(tokens[-thought:])))
        if self.end_thought or too_long:
            self.end_thought = False
            self._forced.extend(self._end_of_thought)

    def _send(self, event: EngineEvent) -> None:
        if self.cancelled and not isinstance(event, Finished):
            return
        try:
            self._on_event(event)
        except Exception:
            log.exception("the receiver of a request's events failed; the request is cancelled")
            self.cancelled = True

    def _timings(self, prefilled: int, generated: int) -> Timings:
        def since(begin: float | None, end: float | None) -> float | None:
            return None if begin is None or end is None else end - begin

        def rate(tokens: int, seconds: float | None) -> float | None:
            return tokens / seconds if seconds and tokens > 0 else None

        return Timings(
            queue_seconds=since(self._submitted, self._started),
            first_token_seconds=since(self._submitted, self._first_token),
            total_seconds=time.monotonic() - self._submitted,
            prefill_tokens_per_second=rate(prefilled, since(self._started, self._first_token)),
            decode_tokens_per_second=rate(generated - 1, since(self._first_token, self._last_token)),
        )
