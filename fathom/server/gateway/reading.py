"""From the stream of an OpenAI-compatible server to the events of an engine."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx

from fathom.engine.request import EngineEvent, FinishReason, TokenLogprobs, Usage
from fathom.server.gateway.tokens import Words
from fathom.text import Answer, Thought, ToolCallArguments, ToolCallEnd, ToolCallStart

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "stop",
}


class UpstreamFailedError(Exception):
    """An upstream's answer broke off or made no sense. `status` is what a client should be told."""

    def __init__(self, message: str, status: int = 503) -> None:
        super().__init__(message)
        self.status = status


async def chunks_of(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a stream until [DONE] or its end. Raises UpstreamFailedError for errors in it."""
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue  # comments keep the connection alive
        data = line[5:].strip()
        if data == "[DONE]":
            return
        try:
            chunk = json.loads(data)
        except ValueError as error:
            raise UpstreamFailedError(f"an event is not JSON: {data[:80]!r}") from error
        if not isinstance(chunk, dict):
            raise UpstreamFailedError(f"an event is no object: {data[:80]!r}")
        if chunk.get("error"):
            raise UpstreamFailedError(_message(chunk["error"]))
        yield chunk


class Reader:
    """Turns the chunks of one answer into events, and keeps its account."""

    def __init__(self, words: Words, prompt_tokens: int) -> None:
        self._words = words
        self._calls = -1
        self._usage: dict[str, Any] = {}
        self._pieces = self._thoughts = 0
        self._prompt_tokens = prompt_tokens
        self.reason: FinishReason | None = None

    @property
    def has_begun(self) -> bool:
        """Whether anything of the answer has come."""
        return self._pieces > 0

    def events(self, chunk: dict[str, Any]) -> Iterator[EngineEvent]:
        """What a chunk of a chat or a text completion adds."""
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            yield from self._logprobs(choice.get("logprobs") or {})
            thought = delta.get("reasoning_content") or delta.get("reasoning")  # the latter: vLLM's newer name
            if thought:
                self._pieces += 1
                self._thoughts += 1
                yield Thought(thought)
            if text := delta.get("content") or choice.get("text"):
                self._pieces += 1
                yield Answer(text)
            for call in delta.get("tool_calls") or ():
                self._pieces += 1
                yield from self._call(call)
            if choice.get("finish_reason"):
                reason = choice["finish_reason"]
                if reason not in _REASONS:
                    raise UpstreamFailedError(f"it ended with {reason!r}")
                if self._calls >= 0:
                    yield ToolCallEnd(self._calls)
                self.reason = _REASONS[reason]

    def usage(self) -> Usage:
        """As the upstream counts; where it does not, one token for each piece that came."""
        told = self._usage
        details = told.get("prompt_tokens_details") or {}
        cached = told.get("prompt_cache_hit_tokens") or details.get("cached_tokens") or 0
        thought = (told.get("completion_tokens_details") or {}).get("reasoning_tokens")
        prompt = told.get("prompt_tokens") or self._prompt_tokens
        return Usage(
            prompt,
            min(cached, prompt),
            told.get("completion_tokens") or self._pieces,
            self._thoughts if thought is None else thought,
        )

    def _call(self, call: dict[str, Any]) -> Iterator[EngineEvent]:
        function = call.get("function") or {}
        if call["index"] > self._calls:
            if self._calls >= 0:
                yield ToolCallEnd(self._calls)
            self._calls = call["index"]
            yield ToolCallStart(self._calls, call.get("id") or f"call_{self._calls:02d}", function.get("name") or "")
        if function.get("arguments"):
            yield ToolCallArguments(self._calls, function["arguments"])

    def _logprobs(self, logprobs: dict[str, Any]) -> Iterator[EngineEvent]:
        for name in ("reasoning_content", "content"):
            for entry in logprobs.get(name) or ():
                top = tuple((self._words.id(one), one["logprob"]) for one in entry.get("top_logprobs") or ())
                yield TokenLogprobs(self._words.id(entry), entry["logprob"], top, thought=name != "content")


async def refusal_of(response: httpx.Response) -> UpstreamFailedError:
    """What an upstream said instead of answering."""
    body = (await response.aread())[:10_000]
    try:
        message = _message(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {response.status_code}"
    return UpstreamFailedError(message, response.status_code)


def _message(error: object) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
