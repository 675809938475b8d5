"""What a conversation is made of, and which conversations make sense."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fathom.text.errors import MessageError

ROLES = ("system", "developer", "user", "assistant", "tool")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """An assistant's request to run a tool; `arguments` is JSON as the model wrote it, so it may be malformed."""

    id: str
    name: str
    arguments: str = "{}"


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the assistant may call; `parameters` is its JSON schema, None for no parameters."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    strict: bool = False

    def as_json(self) -> dict[str, Any]:
        """The function's description as templates show it to a model."""
        function: dict[str, Any] = {"name": self.name, "description": self.description}
        function["parameters"] = self.parameters or {"type": "object", "properties": {}}
        return function | ({"strict": True} if self.strict else {})


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `prefix` on the last assistant message asks the model to continue it (chat prefix completion)."""

    role: str
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: Sequence[ToolCall] = ()
    tool_call_id: str | None = None
    name: str | None = None
    prefix: bool = False


def json_text(value: object) -> str:
    """JSON as chat templates write it: on one line, other scripts readable."""
    return json.dumps(value, ensure_ascii=False)


def split_thought(message: Message) -> Message:
    """An assistant message whose content still holds its thought in tags, with the two apart.

    Clients send back what they showed. As in the published templates everything up to the last `</think>` is thought.
    """
    content = message.content or ""
    if message.role != "assistant":
        return message
    if "</think>" in content:
        thought, _, answer = content.rpartition("</think>")
    elif message.prefix and content.lstrip().startswith("<think>"):
        thought, answer = content, ""
    else:
        return message
    thought = thought.lstrip().removeprefix("<think>").strip("\n")
    return replace(message, content=answer, reasoning_content=message.reasoning_content or thought)


def validate_conversation(messages: Sequence[Message], tools: Sequence[Tool] = ()) -> None:
    """Raise MessageError, naming index and field, unless a template can render these messages and tools."""
    if not messages:
        raise MessageError("messages", None, None, "at least one message is needed")
    for index, message in enumerate(messages):
        problem = _problem(message, is_last=index == len(messages) - 1)
        if problem:
            raise MessageError("messages", index, *problem)
    _validate_tool_results(messages)
    _validate_tools(tools)


def _problem(message: Message, *, is_last: bool) -> tuple[str, str] | None:
    """The first thing wrong with a message on its own, as (field, problem)."""
    if message.role not in ROLES:
        return "role", f"{message.role!r} is not one of {', '.join(ROLES)}"
    for field in ("content", "reasoning_content", "tool_call_id", "name"):
        value = getattr(message, field)
        if value is not None and not isinstance(value, str):
            return field, f"must be text, not {type(value).__name__}"
    if message.role == "assistant":
        return _assistant_problem(message, is_last=is_last)
    if message.content is None:
        return "content", f"a {message.role} message needs content"
    for field in ("reasoning_content", "tool_calls", "prefix"):
        if getattr(message, field):
            return field, f"only an assistant message can have it, not a {message.role} message"
    if message.role == "tool" and not message.tool_call_id:
        return "tool_call_id", "a tool message must say which call it answers"
    return None


def _assistant_problem(message: Message, *, is_last: bool) -> tuple[str, str] | None:
    if message.prefix and not is_last:
        return "prefix", "only the last message can be continued"
    if message.prefix and message.tool_calls:
        return "prefix", "a message with tool calls is complete and cannot be continued"
    if message.content is None and not message.tool_calls and not message.prefix:
        return "content", "an assistant message needs content or tool_calls"
    for number, call in enumerate(message.tool_calls):
        for field in ("id", "name", "arguments"):
            value = getattr(call, field)
            if not isinstance(value, str) or (not value and field != "arguments"):
                return f"tool_calls[{number}].{field}", "must be text that is not empty"
    return None


def _validate_tool_results(messages: Sequence[Message]) -> None:
    """Every call is answered, by tool messages right after it, and no tool message answers anything else."""
    open_calls: set[str] = set()
    for index, message in enumerate(messages):
        if message.role == "tool":
            if message.tool_call_id not in open_calls:
                problem = f"no call with the id {message.tool_call_id!r} waits for an answer just before it"
                raise MessageError("messages", index, "tool_call_id", problem)
            open_calls.remove(message.tool_call_id)
            continue
        _require_answered(index, open_calls)
        open_calls = {call.id for call in message.tool_calls}
        if len(open_calls) != len(message.tool_calls):
            raise MessageError("messages", index, "tool_calls", "two calls have the same id")
    _require_answered(len(messages), open_calls)


def _require_answered(index: int, open_calls: set[str]) -> None:
    if open_calls:
        missing = ", ".join(sorted(open_calls))
        raise MessageError(
            "messages", index, None, f"a tool message for each earlier call must stand here; missing: {missing}"
        )


def _validate_tools(tools: Sequence[Tool]) -> None:
    names: set[str] = set()
    for index, tool in enumerate(tools):
        if not isinstance(tool.name, str) or not _TOOL_NAME.fullmatch(tool.name):
            raise MessageError("tools", index, "name", f"{tool.name!r} is not 1 to 64 of a-z, A-Z, 0-9, _ and -")
        if tool.name in names:
            raise MessageError("tools", index, "name", f"two tools are called {tool.name!r}")
        if not isinstance(tool.description, str):
            raise MessageError("tools", index, "description", "must be text")
        if tool.parameters is not None and not isinstance(tool.parameters, Mapping):
            raise MessageError("tools", index, "parameters", "must be a JSON schema object")
        names.add(tool.name)
