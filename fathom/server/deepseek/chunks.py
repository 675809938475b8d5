"""From the engine's events to `chat.completion.chunk`s, and from chunks to the whole `chat.completion`.

There is one way: an answer that is not streamed is the sum of the chunks that would have been streamed.
Source: https://api-docs.deepseek.com/api/create-chat-completion (response, streaming).
"""

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fathom.engine.request import Finished, PromptLogprobs, TokenLogprobs, Usage
from fathom.search.engines import Source
from fathom.search.searching import Step
from fathom.server.deepseek.accounts import FINISH_REASONS, TokenBytes, logprob_json, usage_json
from fathom.server.dialects import Chunk
from fathom.server.searched import Cited, ServerEvent
from fathom.server.searching import Found
from fathom.server.sources import annotations, found_json, step_json
from fathom.text import Answer, Event, Thought, ToolCallArguments, ToolCallStart


@dataclass(slots=True)
class _Choice:
    """How far one choice is: whether its role was sent, and the log probabilities of tokens not yet shown."""

    begun: bool = False
    logprobs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


class ChatChunks:
    """Makes the chunks of one request with `n` choices; its events may arrive in any interleaving of the choices."""

    def __init__(
        self, model: str, fingerprint: str, token_bytes: TokenBytes, *, n: int = 1, include_usage: bool = False
    ) -> None:
        self._head = {
            "id": uuid.uuid4().hex,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._token_bytes = token_bytes
        self._include_usage = include_usage
        self._choices = [_Choice() for _ in range(n)]
        self._usages: list[Usage] = []
        self._sources: Sequence[Source] = ()

    def chunks(self, choice: int, event: ServerEvent) -> list[Chunk]:
        """The chunks that `event` of the choice with this index adds to the stream, in order."""
        if isinstance(event, Step | Found | Cited):
            return [self._searched(choice, event)]
        if isinstance(event, Finished):
            return self._last(choice, event)
        if isinstance(event, TokenLogprobs):
            channel = "reasoning_content" if event.thought else "content"
            entry = logprob_json(event, self._token_bytes)
            self._choices[choice].logprobs.setdefault(channel, []).append(entry)
            return []
        if isinstance(event, PromptLogprobs):  # only asked for by plain completions
            return []
        delta = _delta(event)
        if delta is None:
            return []
        return [*self._first(choice, thinks=isinstance(event, Thought)), self._chunk(choice, delta)]

    def whole(self, chunks: Iterable[Chunk]) -> dict[str, Any]:
        """The `chat.completion` whose streamed form these chunks are."""
        return whole(chunks)

    def _searched(self, choice: int, event: Step | Found | Cited) -> Chunk:
        """A chunk with `search` beside its choices; clients that know nothing of it read an empty piece of answer."""
        delta: Chunk = {"content": ""}
        match event:
            case Step():
                said = step_json(event)
            case Found():
                self._sources = event.sources
                said = {"stage": "found", **found_json(event)}
            case Cited():
                delta["annotations"] = annotations(event, self._sources)
                said = {"stage": "cited", "dropped": event.dropped}
        return {**self._chunk(choice, delta, with_logprobs=False), "search": said}

    def _first(self, choice: int, *, thinks: bool) -> list[Chunk]:
        if self._choices[choice].begun:
            return []
        self._choices[choice].begun = True
        opening: Chunk = {"role": "assistant", "content": ""}
        if thinks:
            opening = {"role": "assistant", "content": None, "reasoning_content": ""}
        return [self._chunk(choice, opening, with_logprobs=False)]

    def _last(self, choice: int, finished: Finished) -> list[Chunk]:
        self._usages.append(finished.usage)
        first = self._first(choice, thinks=False)
        end = self._chunk(choice, {"content": ""}, finish_reason=FINISH_REASONS[finished.reason])
        if len(self._usages) < len(self._choices):
            return [*first, end]
        usage = usage_json(self._usages)
        if self._include_usage:
            return [*first, end, {**self._head, "choices": [], "usage": usage}]
        end["usage"] = usage
        return [*first, end]

    def _chunk(
        self, choice: int, delta: Chunk, *, finish_reason: str | None = None, with_logprobs: bool = True
    ) -> Chunk:
        one = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        if with_logprobs and self._choices[choice].logprobs:
            one["logprobs"] = {"content": None, **self._choices[choice].logprobs}
            self._choices[choice].logprobs = {}
        chunk = {**self._head, "choices": [one]}
        if self._include_usage:
            chunk["usage"] = None
        return chunk


def _delta(event: Event) -> Chunk | None:
    match event:
        case Thought(text):
            return {"content": None, "reasoning_content": text}
        case Answer(text):
            return {"content": text}
        case ToolCallStart(index, call_id, name):
            function = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}
        case ToolCallArguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
        case _:
            return None


def whole(chunks: Iterable[Chunk]) -> dict[str, Any]:
    """The `chat.completion` whose streamed form these chunks are."""
    choices: dict[int, dict[str, Any]] = {}
    completion: dict[str, Any] = {}
    for chunk in chunks:
        head = {key: value for key, value in chunk.items() if key not in ("choices", "usage", "search")}
        completion = completion or {**head, "object": "chat.completion", "choices": []}
        if chunk.get("usage"):
            completion["usage"] = chunk["usage"]
        if "search" in chunk:
            _add_search(completion, chunk["search"])
        for one in chunk["choices"]:
            _add(choices.setdefault(one["index"], _empty_choice(one["index"])), one)
    completion["choices"] = [choices[index] for index in sorted(choices)]
    return completion


def _add_search(completion: dict[str, Any], said: dict[str, Any]) -> None:
    """What was found, and how many marks of all choices named no source; steps are of no use afterwards."""
    if said["stage"] == "found":
        completion["search"] = {key: value for key, value in said.items() if key != "stage"} | {"dropped": 0}
    elif said["stage"] == "cited":
        completion["search"]["dropped"] += said["dropped"]


def _empty_choice(index: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": ""}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": None}


def _add(choice: dict[str, Any], one: dict[str, Any]) -> None:
    message, delta = choice["message"], one["delta"]
    for name in ("content", "reasoning_content"):
        if delta.get(name) is not None:
            message[name] = message.get(name, "") + delta[name]
    if "annotations" in delta:
        message["annotations"] = delta["annotations"]
    for call in delta.get("tool_calls", ()):
        calls = message.setdefault("tool_calls", [])
        if call["index"] == len(calls):
            calls.append({**call, "function": dict(call["function"])})
        else:
            calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    if one["logprobs"]:
        logprobs = choice["logprobs"] = choice["logprobs"] or {}
        for name, tokens in one["logprobs"].items():
            logprobs[name] = [*(logprobs.get(name) or ()), *(tokens or ())] or None
    choice["finish_reason"] = one["finish_reason"] or choice["finish_reason"]
