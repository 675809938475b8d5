"""From Anthropic's turns of blocks to a conversation as templates know it."""

import json
from collections.abc import Sequence
from dataclasses import replace

from fathom.server.anthropic.fields import (
    AssistantTurn,
    CountFields,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
    UserTurn,
)
from fathom.server.errors import bad_request
from fathom.text import Message, Tool, ToolCall

_BETWEEN_BLOCKS = "\n\n"


def conversation(fields: CountFields) -> list[Message]:
    """The system prompt and the turns; a last turn of the assistant is the beginning of the answer.

    Turns of the same role in a row are one turn, as Anthropic has it.
    """
    messages = []
    if fields.system:
        messages.append(Message("system", joined(fields.system)))
    for turn in fields.messages:
        for message in _messages(turn):
            if messages and _continues(messages[-1], message):
                messages[-1] = _merged(messages[-1], message)
            else:
                messages.append(message)
    if messages[-1].role == "assistant" and not messages[-1].tool_calls:
        messages[-1] = replace(messages[-1], content=messages[-1].content or "", prefix=True)
    return messages


def _continues(before: Message, message: Message) -> bool:
    return message.role in ("user", "assistant") and before.role == message.role and not before.tool_calls


def _merged(before: Message, message: Message) -> Message:
    between = _BETWEEN_BLOCKS if message.role == "user" else ""
    content = between.join(text for text in (before.content, message.content) if text)
    thoughts = [thought for thought in (before.reasoning_content, message.reasoning_content) if thought]
    return replace(message, content=content or None, reasoning_content="".join(thoughts) or None)


def tools(fields: CountFields) -> list[Tool]:
    """The tools there are."""
    return [
        Tool(tool.name, tool.description or "", tool.input_schema, strict=bool(tool.strict))
        for tool in fields.client_tools
    ]


def joined(content: str | Sequence[TextBlock]) -> str:
    """The text of blocks that stand for themselves, with an empty line between them."""
    return content if isinstance(content, str) else _BETWEEN_BLOCKS.join(block.text for block in content)


def _messages(turn: Turn) -> list[Message]:
    if isinstance(turn.content, str):
        return [Message(turn.role, turn.content)]
    return [_assistant(turn)] if isinstance(turn, AssistantTurn) else _user(turn)


def _user(turn: UserTurn) -> list[Message]:
    """Results of tools, each a message of its own, then what the person says."""
    messages: list[Message] = []
    texts: list[TextBlock] = []
    for block in turn.content:
        if isinstance(block, ToolResultBlock):
            if texts:
                raise bad_request("tool_result blocks must come before the text of their message", "messages")
            messages.append(Message("tool", joined(block.content), tool_call_id=block.tool_use_id))
        elif isinstance(block, TextBlock):
            texts.append(block)
    return [*messages, Message("user", joined(texts))] if texts else messages


def _assistant(turn: AssistantTurn) -> Message:
    blocks = turn.content
    text = "".join(block.text for block in blocks if isinstance(block, TextBlock))
    thought = "".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock))
    calls = [
        ToolCall(block.id, block.name, json.dumps(block.input, ensure_ascii=False))
        for block in blocks
        if isinstance(block, ToolUseBlock)
    ]
    return Message("assistant", text or None, reasoning_content=thought or None, tool_calls=calls)
