"""Tools for models whose template knows of none: described in the system message, called and answered in plain text.

The calls are those of Hermes and Qwen, which most small models have seen; the parser and the grammar of calls hold for
them as for the rest. It is a prompt, not training: how well a model uses it depends on the model.
"""

from collections.abc import Sequence
from dataclasses import replace

from fathom.text.messages import Message, Tool, json_text
from fathom.text.templates.calls_text import call_json

_INTRODUCTION = "You can call functions. These are available, each described by a JSON schema:\n\n"
_FORM = (
    "\n\nTo call a function, answer with nothing but\n"
    '<tool_call>\n{"name": "FUNCTION", "arguments": {"PARAMETER": "value"}}\n</tool_call>\n'
    "The result then comes in <tool_response> tags. Call a function only when it helps; otherwise answer in words."
)


def as_plain_messages(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """The same conversation without tools, calls or results as such: all of them in the text of the messages."""
    plain: list[Message] = []
    for message in messages:
        shown = _plain(message)
        if plain and shown.role == "user" == plain[-1].role and message.role in ("tool", "user"):
            plain[-1] = replace(plain[-1], content=f"{plain[-1].content}\n{shown.content}")
        else:
            plain.append(shown)
    return described(plain, tools, _FORM) if tools else plain


def described(messages: Sequence[Message], tools: Sequence[Tool], form: str = "") -> list[Message]:
    """The conversation with the tools in its system message; without `form` the model must know how it calls them."""
    text = _INTRODUCTION + "\n".join(json_text(tool.as_json()) for tool in tools) + form
    if messages[0].role in ("system", "developer"):
        first = replace(messages[0], content=f"{messages[0].content}\n\n{text}" if messages[0].content else text)
        return [first, *messages[1:]]
    return [Message("system", text), *messages]


def _plain(message: Message) -> Message:
    if message.role == "tool":
        return Message("user", f"<tool_response>\n{message.content}\n</tool_response>")
    if not message.tool_calls:
        return message
    calls = "\n".join(f"<tool_call>\n{call_json(call)}\n</tool_call>" for call in message.tool_calls)
    content = f"{message.content}\n{calls}" if message.content else calls
    return replace(message, content=content, tool_calls=())
