"""Messages in, a whole completion out: the conveniences around the engine's events."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fathom.engine.errors import InvalidRequestError, RequestFailedError
from fathom.engine.request import EngineEvent, Finished, PromptLogprobs, TokenLogprobs
from fathom.text import Answer, Message, Thought, ToolCall, ToolCallArguments, ToolCallStart

Messages = str | Sequence[Message | Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer, in the API's names: the sum of the events that would have been streamed."""

    content: str
    reasoning_content: str
    tool_calls: tuple[ToolCall, ...]
    logprobs: tuple[TokenLogprobs, ...]
    finished: Finished
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()

    @property
    def tokens(self) -> tuple[int, ...]:
        """The generated token ids, stop token included."""
        return self.finished.tokens


def as_messages(messages: Messages) -> list[Message]:
    """A conversation from messages, from mappings with the same fields, or from one user's text."""
    if isinstance(messages, str):
        return [Message("user", messages)]
    try:
        return [one if isinstance(one, Message) else Message(**one) for one in messages]
    except TypeError as error:
        raise InvalidRequestError(f"a message takes the fields of fathom.text.Message: {error}") from error


def collect(events: Iterable[EngineEvent]) -> Completion:
    """Sum events up. Raises RequestFailedError when the engine failed on the request."""
    text: list[str] = []
    thought: list[str] = []
    calls: dict[int, tuple[str, str, list[str]]] = {}
    logprobs: list[TokenLogprobs] = []
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    for event in events:
        match event:
            case Answer(piece):
                text.append(piece)
            case Thought(piece):
                thought.append(piece)
            case ToolCallStart(index, call_id, name):
                calls[index] = (call_id, name, [])
            case ToolCallArguments(index, piece):
                calls[index][2].append(piece)
            case TokenLogprobs():
                logprobs.append(event)
            case PromptLogprobs(tokens):
                prompt_logprobs = tokens
            case Finished(reason="error", error=error):
                raise RequestFailedError(f"the engine failed on this request: {error}; its log has the traceback")
            case Finished():
                tool_calls = tuple(ToolCall(call_id, name, "".join(parts)) for call_id, name, parts in calls.values())
                return Completion("".join(text), "".join(thought), tool_calls, tuple(logprobs), event, prompt_logprobs)
    raise AssertionError("a request's events ended without Finished")
