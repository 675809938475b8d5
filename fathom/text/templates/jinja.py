"""A checkpoint's own chat template, in Jinja, rendered in the sandbox."""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from fathom.text.errors import TemplateError
from fathom.text.messages import Message, Tool, ToolCall, split_thought, validate_conversation
from fathom.text.parser.chat_parser import ChatParser
from fathom.text.parser.events import StreamParser
from fathom.text.parser.formats import CallFormat
from fathom.text.sandbox import SANDBOX
from fathom.text.templates.generic_tools import as_plain_messages, described
from fathom.text.templates.guard import Guard
from fathom.text.templates.prompt import Channel, Control, Prompt, PromptWriter
from fathom.text.templates.template import check_request
from fathom.text.tokenizer import Tokenizer

_SKIPPED_THOUGHT = "\n\n</think>\n\n"


class JinjaTemplate:
    """A ChatTemplate. What it can do is read off the template's source: tools, thinking, how calls are written."""

    name = "jinja"

    def __init__(self, tokenizer: Tokenizer, source: str) -> None:
        self.tokenizer = tokenizer
        self.source = source
        self.switches_thinking = bool(re.search(r"\b(enable_)?thinking\b", source))
        self.thinks = self.switches_thinking or "think>" in source
        own_format = _call_format(source)
        self.call_format = own_format or CallFormat.HERMES
        self.describes_tools = bool(re.search(r"\btools\b", source)) and own_format is not None
        self._shows_calls = bool(re.search(r"\btool_calls\b", source)) and own_format is not None

    def render(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), thinking: bool = False) -> Prompt:
        """See ChatTemplate. Raises TemplateError also when the template itself fails or goes over its limits."""
        validate_conversation(messages, tools)
        check_request(self, messages, thinking)
        uses_tools = bool(tools) or any(message.tool_calls for message in messages)
        if uses_tools and not self._shows_calls:
            messages, tools = as_plain_messages(messages, tools), ()
        elif tools and not self.describes_tools:
            messages, tools = described(messages, tools), ()
        if self.thinks:
            messages = [split_thought(message) for message in messages]
        guard = Guard(self.tokenizer)
        end = f"{secrets.randbelow(10**32):032d}" if messages[-1].prefix else None
        text = SANDBOX.render(self.source, self._variables(guard, messages, tools, thinking, end))
        if end is not None:
            text = _until(text, end)
        elif self.thinks and not thinking and text.rstrip().endswith("<think>"):
            text = text.rstrip() + _SKIPPED_THOUGHT
        writer = PromptWriter(self.tokenizer)
        for piece in self.tokenizer.split_control(text):
            writer.write(Control(self.tokenizer.decode([piece])) if isinstance(piece, int) else guard.reveal(piece))
        return writer.prompt(_channel(text, messages[-1]), tools=uses_tools)

    def parser(self, prompt: Prompt) -> StreamParser:
        """See ChatTemplate."""
        return ChatParser(self.tokenizer, prompt.channel, self.call_format if prompt.tools else None)

    def _variables(
        self, guard: Guard, messages: Sequence[Message], tools: Sequence[Tool], thinking: bool, end: str | None
    ) -> dict[str, Any]:
        shown = [self._message(guard, message) for message in messages]
        if end is not None:
            last = shown[-1]
            field = "reasoning_content" if "reasoning_content" in last and not last["content"] else "content"
            last[field] += end
        described = [
            {"type": "function", "function": {key: guard.protect(value) for key, value in tool.as_json().items()}}
            for tool in tools
        ]
        return {
            "messages": shown,
            "tools": described or None,
            "add_generation_prompt": end is None,
            "bos_token": self._spelling(self.tokenizer.bos_id),
            "eos_token": self._spelling(self.tokenizer.eos_id),
            "thinking": thinking,
            "enable_thinking": thinking,
        }

    def _message(self, guard: Guard, message: Message) -> dict[str, Any]:
        role = "system" if message.role == "developer" and "developer" not in self.source else message.role
        content = message.content if message.tool_calls else message.content or ""  # templates ask if it is none
        shown: dict[str, Any] = {"role": role, "content": guard.protect(content)}
        for field in ("reasoning_content", "tool_call_id", "name"):
            if (value := getattr(message, field)) is not None:
                shown[field] = guard.protect(value)
        if message.tool_calls:
            shown["tool_calls"] = [self._call(guard, call, self._takes_text) for call in message.tool_calls]
        return shown

    def _call(self, guard: Guard, call: ToolCall, as_text: bool) -> dict[str, Any]:
        arguments = call.arguments if as_text else _parsed(call.arguments)
        function = {"name": guard.protect(call.name), "arguments": guard.protect(arguments)}
        return {"id": guard.protect(call.id), "type": "function", "function": function}

    @cached_property
    def _takes_text(self) -> bool:
        """Whether the template wants a call's arguments as text (DeepSeek's do) or as an object (most others)."""
        guard = Guard(self.tokenizer)
        call = self._call(guard, ToolCall("0", "f", '{"probe": 1}'), as_text=True)
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
        variables = self._variables(guard, [Message("user", "?")], (), thinking=False, end=None)
        try:
            return '{"probe": 1}' in SANDBOX.render(self.source, variables | {"messages": messages})
        except TemplateError:
            return False

    def _spelling(self, id: int | None) -> str:
        return "" if id is None else self.tokenizer.decode([id])


def _call_format(source: str) -> CallFormat | None:
    if "<｜tool▁calls▁begin｜>" in source:
        return CallFormat.DEEPSEEK_V3 if "```json" in source else CallFormat.DEEPSEEK_V31
    return CallFormat.HERMES if "<tool_call>" in source else None


def _parsed(arguments: str) -> object:
    """A call's arguments as an object, or as they are where they are not one."""
    try:
        value = json.loads(arguments)
    except (json.JSONDecodeError, RecursionError):
        return arguments
    return value if isinstance(value, Mapping) else arguments


def _until(text: str, end: str) -> str:
    """What a template writes before the end of the message that is to be continued."""
    before, mark, _ = text.rpartition(end)
    if not mark:
        raise TemplateError("the checkpoint's chat template leaves out what should be continued: ask without prefix")
    return before


def _channel(text: str, last: Message) -> Channel:
    """Where the first token belongs, by how the prompt ends."""
    if last.prefix and last.content:
        return "answer"
    if last.prefix and last.reasoning_content:
        return "thought"
    if text.rstrip().endswith("<think>"):
        return "thought"
    return "answer" if text.rstrip().endswith("</think>") else "any"
