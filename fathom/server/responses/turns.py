"""From the items of a Responses request to a conversation as templates know it."""

from collections.abc import Sequence
from dataclasses import replace

from fathom.server.responses.fields import (
    CallItem,
    CallOutputItem,
    Content,
    Item,
    MessageItem,
    ReasoningItem,
    ResponseFields,
)
from fathom.text import Message, Tool, ToolCall


def conversation(fields: ResponseFields) -> list[Message]:
    """The instructions and the items. A thought, its calls and what is said beside them are one turn of the model."""
    messages = [Message("system", fields.instructions)] if fields.instructions else []
    if isinstance(fields.input, str):
        return [*messages, Message("user", fields.input)]
    for item in fields.input:
        message = _message(item)
        if messages and messages[-1].role == message.role == "assistant":
            messages[-1] = _merged(messages[-1], message)
        else:
            messages.append(message)
    # A thought that nothing came of says nothing to the model.
    return [message for message in messages if message.role != "assistant" or message.content or message.tool_calls]


def tools(fields: ResponseFields) -> list[Tool]:
    """The tools there are."""
    return [
        Tool(tool.name, tool.description or "", tool.parameters, strict=bool(tool.strict))
        for tool in fields.tools or ()
    ]


def _message(item: Item) -> Message:
    match item:
        case MessageItem():
            return Message(item.role, _text(item.content))
        case CallOutputItem():
            return Message("tool", _text(item.output), tool_call_id=item.call_id)
        case CallItem():
            return Message("assistant", tool_calls=(ToolCall(item.call_id, item.name, item.arguments),))
        case ReasoningItem():
            pieces = item.content or item.summary
            return Message("assistant", reasoning_content="".join(piece.text for piece in pieces) or None)


def _merged(before: Message, message: Message) -> Message:
    texts = [text for text in (before.content, message.content) if text]
    thoughts: Sequence[str] = [text for text in (before.reasoning_content, message.reasoning_content) if text]
    return replace(
        before,
        content="\n\n".join(texts) or None,
        reasoning_content="\n\n".join(thoughts) or None,
        tool_calls=(*before.tool_calls, *message.tool_calls),
    )


def _text(content: Content) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
