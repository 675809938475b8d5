"""Conversations that make no sense are refused, saying where."""

import pytest

from fathom.text import Message, MessageError, Tool, ToolCall
from fathom.text.messages import split_thought, validate_conversation

USER = Message("user", "Hi")
CALL = ToolCall("1", "f", "{}")
CALLED = Message("assistant", None, tool_calls=(CALL,))


@pytest.mark.parametrize(
    ("messages", "index", "field"),
    [
        ([], None, None),
        ([Message("robot", "Hi")], 0, "role"),
        ([USER, Message("user", None)], 1, "content"),
        ([Message("user", 7)], 0, "content"),  # type: ignore[arg-type]
        ([Message("system", "x", reasoning_content="y")], 0, "reasoning_content"),
        ([Message("user", "x", tool_calls=(CALL,))], 0, "tool_calls"),
        ([Message("user", "x", prefix=True)], 0, "prefix"),
        ([Message("assistant", "x", prefix=True), USER], 0, "prefix"),
        ([USER, Message("assistant", "x", tool_calls=(CALL,), prefix=True)], 1, "prefix"),
        ([Message("assistant")], 0, "content"),
        ([Message("assistant", tool_calls=(ToolCall("", "f"),))], 0, "tool_calls[0].id"),
        ([Message("assistant", tool_calls=(CALL, ToolCall("2", "")))], 0, "tool_calls[1].name"),
        ([Message("assistant", tool_calls=(ToolCall("2", "f", {}),))], 0, "tool_calls[0].arguments"),  # type: ignore[arg-type]
        ([Message("assistant", tool_calls=(CALL, CALL))], 0, "tool_calls"),
        ([Message("tool", "x")], 0, "tool_call_id"),
        ([USER, Message("tool", "x", tool_call_id="1")], 1, "tool_call_id"),
        ([USER, CALLED, Message("tool", "x", tool_call_id="2")], 2, "tool_call_id"),
        ([USER, CALLED, USER], 2, None),
        ([USER, CALLED], 2, None),
    ],
)
def test_refused_messages(messages: list[Message], index: int | None, field: str | None) -> None:
    with pytest.raises(MessageError) as caught:
        validate_conversation(messages)
    assert (caught.value.index, caught.value.field) == (index, field)
    assert str(caught.value).startswith("messages" if index is None else f"messages[{index}]")


@pytest.mark.parametrize(
    ("tools", "index", "field"),
    [
        ([Tool("a b")], 0, "name"),
        ([Tool("a"), Tool("x" * 65)], 1, "name"),
        ([Tool("<think>")], 0, "name"),
        ([Tool("a"), Tool("a")], 1, "name"),
        ([Tool("a", None)], 0, "description"),  # type: ignore[arg-type]
        ([Tool("a", "", [])], 0, "parameters"),  # type: ignore[arg-type]
    ],
)
def test_refused_tools(tools: list[Tool], index: int, field: str) -> None:
    with pytest.raises(MessageError) as caught:
        validate_conversation([USER], tools)
    assert (caught.value.index, caught.value.field) == (index, field)


def test_accepted() -> None:
    answers = [Message("tool", "x", tool_call_id="1"), Message("assistant", "So")]
    validate_conversation([Message("developer", "Be kind."), USER, CALLED, *answers, USER], [Tool("f-1_A")])
    validate_conversation([USER, Message("assistant", "", "Hm", prefix=True)])


def test_thoughts_in_content_are_set_apart() -> None:
    whole = Message("assistant", "<think>\nHm\n</think>\n\nSo")
    assert split_thought(whole) == Message("assistant", "\n\nSo", "Hm")
    assert split_thought(Message("assistant", "a</think>b</think>c")) == Message("assistant", "c", "a</think>b")
    assert split_thought(Message("user", whole.content)) == Message("user", whole.content)
    assert split_thought(Message("assistant", "<think>Hm", prefix=True)) == Message("assistant", "", "Hm", prefix=True)
