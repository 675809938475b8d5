"""From the engine's events to the events of a Responses stream; the whole response is what the last of them holds.

Source: https://platform.openai.com/docs/api-reference/responses-streaming.
"""

import time
import uuid
from collections.abc import Iterable
from typing import Any

from fathom.engine.request import Finished, Usage
from fathom.server.dialects import Chunk
from fathom.server.errors import ApiError
from fathom.server.responses.fields import NamedTool, ResponseFields
from fathom.server.searched import ServerEvent
from fathom.text import Answer, Thought, ToolCallArguments, ToolCallEnd, ToolCallStart


class ResponseEvents:
    """Makes the events of one response. Output items follow each other: one is open at a time."""

    def __init__(self, fields: ResponseFields, temperature: float, top_p: float, max_tokens: int) -> None:
        self._response = _head(fields, temperature, top_p, max_tokens)
        self._output: list[dict[str, Any]] = self._response["output"]
        self._number = 0
        self._open: str | None = None  # the type of the item that is open

    def opening(self) -> list[Chunk]:
        """Sent before there is anything to say."""
        return [self._event("response.created", response=self._snapshot()), self._started()]

    def chunks(self, choice: int, event: ServerEvent) -> list[Chunk]:  # noqa: ARG002 - there is one choice
        """The events that `event` adds to the stream."""
        match event:
            case Thought(text):
                opened = self._in_item("reasoning", {"summary": [], "content": []}, "reasoning_text")
                return [*opened, self._grow("content", text, "response.reasoning_text.delta")]
            case Answer(text):
                opened = self._in_item("message", {"role": "assistant", "content": []}, "output_text")
                return [*opened, self._grow("content", text, "response.output_text.delta", logprobs=[])]
            case ToolCallStart(_, call_id, name):
                fields = {"call_id": call_id, "name": name, "arguments": ""}
                return [*self._close(), *self._in_item("function_call", fields, None)]
            case ToolCallArguments(_, text):
                return [self._grow("arguments", text, "response.function_call_arguments.delta")]
            case ToolCallEnd():
                return self._close()
            case Finished():
                return self._finish(event)
            case _:
                return []

    def whole(self, chunks: Iterable[Chunk]) -> dict[str, Any]:
        """The response whose streamed form these events are."""
        *_, last = chunks
        response: dict[str, Any] = last["response"]
        return response

    def _started(self) -> Chunk:
        return self._event("response.in_progress", response=self._snapshot())

    def _in_item(self, kind: str, fields: dict[str, Any], part: str | None) -> list[Chunk]:
        """Open an item of this type, with its one part, unless it is open already."""
        if self._open == kind:
            return []
        events = self._close()
        prefix = {"reasoning": "rs", "message": "msg", "function_call": "fc"}[kind]
        item = {"id": f"{prefix}_{uuid.uuid4().hex}", "type": kind, "status": "in_progress", **fields}
        self._output.append(item)
        self._open = kind
        added = {**item, **({"content": []} if part else {})}
        events.append(self._event("response.output_item.added", output_index=len(self._output) - 1, item=added))
        if part is not None:
            made: dict[str, Any] = {"type": part, "text": ""}
            if part == "output_text":
                made |= {"annotations": [], "logprobs": []}
            item["content"].append(made)
            events.append(self._of_item("response.content_part.added", content_index=0, part=dict(made)))
        return events

    def _grow(self, field: str, text: str, name: str, **more: Any) -> Chunk:
        item = self._output[-1]
        if field == "arguments":
            item["arguments"] += text
            return self._of_item(name, delta=text)
        item["content"][0]["text"] += text
        return self._of_item(name, content_index=0, delta=text, **more)

    def _close(self, status: str = "completed") -> list[Chunk]:
        if self._open is None:
            return []
        item, kind, self._open = self._output[-1], self._open, None
        item["status"] = status
        if kind == "function_call":
            said = [
                self._of_item("response.function_call_arguments.done", arguments=item["arguments"], name=item["name"])
            ]
        else:
            part = item["content"][0]
            name = "response.reasoning_text.done" if kind == "reasoning" else "response.output_text.done"
            logprobs: dict[str, Any] = {} if kind == "reasoning" else {"logprobs": []}
            said = [
                self._of_item(name, content_index=0, text=part["text"], **logprobs),
                self._of_item("response.content_part.done", content_index=0, part=dict(part)),
            ]
        return [*said, self._event("response.output_item.done", output_index=len(self._output) - 1, item=dict(item))]

    def _finish(self, finished: Finished) -> list[Chunk]:
        if finished.reason == "cancelled":
            raise ApiError(503, "The answer was ended by the server before it was complete: ask again")
        cut = finished.reason == "length"
        events = self._close("incomplete" if cut else "completed")
        status = "incomplete" if cut else "completed"
        self._response |= {"status": status, "usage": usage_json(finished.usage), "completed_at": int(time.time())}
        if cut:
            self._response["incomplete_details"] = {"reason": "max_output_tokens"}
        return [*events, self._event(f"response.{status}", response=self._snapshot())]

    def _snapshot(self) -> dict[str, Any]:
        return {**self._response, "output": [dict(item) for item in self._output]}

    def _of_item(self, kind: str, **fields: Any) -> Chunk:
        index = len(self._output) - 1
        return self._event(kind, item_id=self._output[index]["id"], output_index=index, **fields)

    def _event(self, kind: str, **fields: Any) -> Chunk:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return event


def usage_json(usage: Usage) -> dict[str, Any]:
    """Tokens in OpenAI's newer names."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.thought_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _head(fields: ResponseFields, temperature: float, top_p: float, max_tokens: int) -> dict[str, Any]:
    """What is known of a response before there is one."""
    choice = fields.tool_choice
    wanted = fields.text.format if fields.text else None
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": fields.instructions,
        "max_output_tokens": max_tokens,
        "model": fields.model,
        "output": [],
        "parallel_tool_calls": fields.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": fields.reasoning.effort if fields.reasoning else None, "summary": None},
        "store": False,
        "temperature": temperature,
        "text": {"format": wanted.model_dump(by_alias=True, exclude_none=True) if wanted else {"type": "text"}},
        "tool_choice": choice.model_dump() if isinstance(choice, NamedTool) else choice or "auto",
        "tools": [tool.model_dump() for tool in fields.tools or ()],
        "top_p": top_p,
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "metadata": {},
    }
