"""From the engine's events to Anthropic's stream of blocks, and from that stream to the whole message.

Source: https://docs.anthropic.com/en/docs/build-with-claude/streaming. The whole message is the sum of the stream.
"""

import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from fathom.engine.request import Finished, Usage
from fathom.search.engines import Source
from fathom.search.searching import Step
from fathom.server.dialects import Chunk
from fathom.server.errors import ApiError
from fathom.server.searched import Cited, ServerEvent
from fathom.server.searching import Found
from fathom.text import Answer, Thought, ToolCallArguments, ToolCallEnd, ToolCallStart

_FAILURES = ("search_failed", "engine_failed", "engine_slow")
_CITED_CHARACTERS = 150  # of a passage, as Anthropic shows of a page
MALFORMED = "malformed_arguments"  # the only key of a call's input when the model's arguments were no JSON object


class MessageEvents:
    """Makes the events of one message. Blocks follow each other: one is open at a time."""

    def __init__(self, model: str, prompt_tokens: int, max_tokens: int) -> None:
        self.id = f"msg_{uuid.uuid4().hex}"
        self._model = model
        self._prompt_tokens = prompt_tokens
        self._max_tokens = max_tokens
        self._index = -1
        self._open: str | None = None
        self._searches = 0
        self._found: Found | None = None

    def opening(self) -> list[Chunk]:
        """`message_start`, sent before there is anything to say; what was cached is known only at the end."""
        message: Chunk = {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_json(Usage(self._prompt_tokens, 0, 0, 0)),
        }
        return [{"type": "message_start", "message": message}, {"type": "ping"}]

    def chunks(self, choice: int, event: ServerEvent) -> list[Chunk]:  # noqa: ARG002 - Anthropic has one choice
        """The events that `event` adds to the stream."""
        match event:
            case Thought(text):
                return [*self._in_block("thinking", {"thinking": "", "signature": ""}), self._delta("thinking", text)]
            case Answer(text):
                return [*self._in_block("text", {"text": ""}), self._delta("text", text)]
            case ToolCallStart(_, call_id, name):
                return [*self._close(), *self._in_block("tool_use", {"id": call_id, "name": name, "input": {}})]
            case ToolCallArguments(_, text):
                return [self._block_delta({"type": "input_json_delta", "partial_json": text})]
            case ToolCallEnd():
                return self._close()
            case Step(stage="searching", queries=queries):
                return self._search_begins(queries)
            case Found():
                self._found = event
                return self._search_ends(event)
            case Cited():
                return self._citations(event)
            case Finished():
                return [*self._close(), *self._last(event)]
            case _:
                return []

    def whole(self, chunks: Iterable[Chunk]) -> dict[str, Any]:
        """The message whose streamed form these events are."""
        return whole(chunks)

    def _in_block(self, kind: str, fields: Chunk) -> list[Chunk]:
        if self._open == kind:
            return []
        closed = self._close()
        self._index += 1
        self._open = kind
        block = {"type": kind, **fields}
        return [*closed, {"type": "content_block_start", "index": self._index, "content_block": block}]

    def _close(self) -> list[Chunk]:
        if self._open is None:
            return []
        # Clients send a thought back only with a signature. Ours proves nothing and is not read.
        signed = [self._block_delta({"type": "signature_delta", "signature": self.id})]
        end = {"type": "content_block_stop", "index": self._index}
        events = [*signed, end] if self._open == "thinking" else [end]
        self._open = None
        return events

    def _delta(self, kind: str, text: str) -> Chunk:
        return self._block_delta({"type": f"{kind}_delta", kind: text})

    def _block_delta(self, delta: Chunk) -> Chunk:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _search_begins(self, queries: Sequence[str]) -> list[Chunk]:
        """A search; one before it that found nothing is answered with nothing first."""
        before = self._search_result([]) if self._searches else []
        self._searches += 1
        asked = json.dumps({"query": " | ".join(queries)}, ensure_ascii=False)
        opened = self._in_block("server_tool_use", {"id": self._search_id, "name": "web_search", "input": {}})
        named = self._block_delta({"type": "input_json_delta", "partial_json": asked})
        return [*before, *opened, named, *self._close()]

    def _search_ends(self, found: Found) -> list[Chunk]:
        """The sources; where the search itself broke, Anthropic's error in their place."""
        if not found.sources and any(note.kind in _FAILURES for note in found.notes):
            return self._search_result({"type": "web_search_tool_result_error", "error_code": "unavailable"})
        return self._search_result([_result_json(source) for source in found.sources])

    def _search_result(self, content: object) -> list[Chunk]:
        result = {"tool_use_id": self._search_id, "content": content}
        return [*self._in_block("web_search_tool_result", result), *self._close()]

    @property
    def _search_id(self) -> str:
        return f"srvtoolu_{self.id.removeprefix('msg_')}{self._searches}"

    def _citations(self, cited: Cited) -> list[Chunk]:
        """All citations at the end of the text that holds their marks."""
        if self._found is None or self._open != "text":
            return []
        sources = [self._found.sources[one.source] for one in cited.citations]
        return [self._block_delta({"type": "citations_delta", "citation": _citation(source)}) for source in sources]

    def _last(self, finished: Finished) -> list[Chunk]:
        usage = usage_json(finished.usage)
        if self._found is not None:
            usage["server_tool_use"] = {"web_search_requests": self._searches, "web_fetch_requests": 0}
        delta = {"stop_reason": self._stop_reason(finished), "stop_sequence": finished.stop_string}
        return [
            {"type": "message_delta", "delta": delta, "usage": usage},
            {"type": "message_stop"},
        ]

    def _stop_reason(self, finished: Finished) -> str:
        match finished.reason:
            case "stop":
                return "end_turn" if finished.stop_string is None else "stop_sequence"
            case "length":
                full = finished.usage.completion_tokens < self._max_tokens
                return "model_context_window_exceeded" if full else "max_tokens"
            case "tool_calls":
                return "tool_use"
            case "cancelled":
                raise ApiError(503, "The answer was ended by the server before it was complete: ask again")
            case "error":
                raise ApiError(500, "The engine failed on this answer; the server's log has the details")


def _result_json(source: Source) -> Chunk:
    # Anthropic seals what a page says; clients only send it back, and a search of the history is not read again.
    return {
        "type": "web_search_result",
        "url": source.url,
        "title": source.title,
        "encrypted_content": "",
        "page_age": source.published,
    }


def _citation(source: Source) -> Chunk:
    return {
        "type": "web_search_result_location",
        "url": source.url,
        "title": source.title,
        "encrypted_index": "",
        "cited_text": (source.text or source.snippet)[:_CITED_CHARACTERS],
    }


def usage_json(usage: Usage) -> dict[str, Any]:
    """Anthropic counts what was read from the cache apart from `input_tokens`."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.thought_tokens},
    }


def whole(chunks: Iterable[Chunk]) -> dict[str, Any]:
    """The message whose streamed form these events are."""
    message: dict[str, Any] = {}
    for chunk in chunks:
        match chunk["type"]:
            case "message_start":
                message = {**chunk["message"], "content": []}
            case "content_block_start":
                message["content"].append(dict(chunk["content_block"]))
            case "content_block_delta":
                _extend(message["content"][chunk["index"]], chunk["delta"])
            case "message_delta":
                message |= {**chunk["delta"], "usage": chunk["usage"]}
    for block in message["content"]:
        if block["type"] in ("tool_use", "server_tool_use"):
            block["input"] = _arguments(block["input"] or "{}")
    return message


def _extend(block: dict[str, Any], delta: Chunk) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "thinking_delta":
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] = delta["signature"]
        case "citations_delta":
            block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
        case "input_json_delta":
            block["input"] = (block["input"] or "") + delta["partial_json"]


def _arguments(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {MALFORMED: text}
    return value if isinstance(value, dict) else {MALFORMED: text}
