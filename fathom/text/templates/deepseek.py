"""DeepSeek's own dialects: V2; V3 and the first R1; R1-0528 and the distilled students; V3.1.

Sources: the chat templates in the releases' `tokenizer_config.json`, the model cards of V2.5 (how tools are described)
and V3.1 (tool calls). Where a released template forgets to reset its state (a second round of tool calls in V3's) we
write each round like the first.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import ClassVar

from fathom.text.messages import Message, Tool, ToolCall, json_text
from fathom.text.parser.formats import CallFormat
from fathom.text.templates.prompt import Channel, Control, PromptWriter
from fathom.text.templates.template import Conversation, EncodedTemplate
from fathom.text.tokenizer import Tokenizer

BEGIN = Control("<｜begin▁of▁sentence｜>")
END = Control("<｜end▁of▁sentence｜>")
USER = Control("<｜User｜>")
ASSISTANT = Control("<｜Assistant｜>")
THINK = Control("<think>")
END_THINK = Control("</think>")
CALLS = Control("<｜tool▁calls▁begin｜>")
END_CALLS = Control("<｜tool▁calls▁end｜>")
CALL = Control("<｜tool▁call▁begin｜>")
END_CALL = Control("<｜tool▁call▁end｜>")
SEPARATOR = Control("<｜tool▁sep｜>")
RESULTS = Control("<｜tool▁outputs▁begin｜>")
END_RESULTS = Control("<｜tool▁outputs▁end｜>")
RESULT = Control("<｜tool▁output▁begin｜>")
END_RESULT = Control("<｜tool▁output▁end｜>")


class DeepSeekV2(EncodedTemplate):
    """V2 and V2-Lite: roles are ordinary words, so here a user's text can imitate a turn, but never the end of one."""

    knows_tools = False

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer, "deepseek-v2")

    def _write(self, writer: PromptWriter, conversation: Conversation) -> Channel:
        writer.write(BEGIN)
        for message in conversation.messages:
            content = message.content or ""
            if message.prefix:
                writer.write("Assistant: ", content)
                return "answer" if content else "any"
            if message.role == "user":
                writer.write("User: ", content, "\n\n")
            elif message.role == "assistant":
                writer.write("Assistant: ", content, END)
            else:
                writer.write(content, "\n\n")
        writer.write("Assistant:")
        return "any"


class DeepSeekV3(EncodedTemplate):
    """V3 and R1. The variants differ in how an answer opens; V3.1 (below) also in its tool calls.

    `deepseek-v3` opens with `<｜Assistant｜>`; so does `deepseek-r1` unless thinking is asked for, when `<think>` is
    forced as the model's card advises; `deepseek-r1-0528` always says, and skips the thought by leaving it empty, the
    way the model itself does.
    """

    call_format = CallFormat.DEEPSEEK_V3
    has_thoughts = True
    before_thought: ClassVar[tuple[str, ...]] = (THINK, "\n")
    after_thought: ClassVar[tuple[str, ...]] = ("\n", END_THINK, "\n\n")
    no_thought: ClassVar[tuple[str, ...]] = (THINK, "\n\n", END_THINK, "\n\n")

    def __init__(self, tokenizer: Tokenizer, name: str) -> None:
        super().__init__(tokenizer, name, thinks=name != "deepseek-v3")

    def _write(self, writer: PromptWriter, conversation: Conversation) -> Channel:
        writer.write(BEGIN)
        messages = conversation.messages
        self._write_system(writer, messages, conversation.tools)
        after_results = False
        turns = [message for message in messages if message.role not in ("system", "developer")]
        for is_results, group in groupby(turns, key=lambda message: message.role == "tool"):
            if is_results:
                self._write_results(writer, [message.content or "" for message in group])
                after_results = True
                continue
            for message in group:
                if message.prefix:
                    return self._continue(writer, message, opens=not after_results)
                self._write_turn(writer, message, opens=not after_results)
                after_results = False
        return "any" if after_results else self._open(writer, conversation.thinking)

    def _write_system(self, writer: PromptWriter, messages: Sequence[Message], tools: Sequence[Tool]) -> None:
        system = [message.content or "" for message in messages if message.role in ("system", "developer")]
        writer.write("\n\n".join(system))
        if tools:
            writer.write("\n\n" if system else "")
            self._describe(writer, tools)

    def _describe(self, writer: PromptWriter, tools: Sequence[Tool]) -> None:
        """As on V2.5's model card; the calls' form, which the card leaves to the examples, is said as well."""
        writer.write("## Tools\n\n### Function\n\nYou have the following functions available:\n\n")
        for tool in tools:
            writer.write(f"- `{tool.name}`:\n```json\n{json_text(tool.as_json())}\n```\n\n")
        writer.write("To call functions, write:\n")
        self._write_calls(writer, [ToolCall("", "FUNCTION_NAME", '{"parameter": "value"}')])
        writer.write("\nThe arguments must be valid JSON.")

    def _write_turn(self, writer: PromptWriter, message: Message, *, opens: bool) -> None:
        if message.role == "user":
            writer.write(USER, message.content or "")
            return
        if opens:
            self._open_past(writer)
        writer.write(message.content or "")
        if message.tool_calls:
            self._write_calls(writer, message.tool_calls)
        writer.write(END)

    def _open_past(self, writer: PromptWriter) -> None:
        writer.write(ASSISTANT)

    def _write_calls(self, writer: PromptWriter, calls: Sequence[ToolCall]) -> None:
        writer.write(CALLS)
        for number, call in enumerate(calls):
            writer.write("\n" if number else "", CALL, "function", SEPARATOR)
            writer.write(f"{call.name}\n```json\n{call.arguments}\n```", END_CALL)
        writer.write(END_CALLS)

    def _write_results(self, writer: PromptWriter, results: Sequence[str]) -> None:
        writer.write(RESULTS)
        for number, result in enumerate(results):
            writer.write("\n" if number else "", RESULT, result, END_RESULT)
        writer.write(END_RESULTS)

    def _open(self, writer: PromptWriter, thinking: bool) -> Channel:
        writer.write(ASSISTANT)
        if thinking:
            writer.write(*self.before_thought)
            return "thought"
        if self.name in ("deepseek-v3", "deepseek-r1"):
            return "any"
        writer.write(*self.no_thought)
        return "answer"

    def _continue(self, writer: PromptWriter, message: Message, *, opens: bool) -> Channel:
        """Write the beginning of a turn that the model is to go on with."""
        content, thought = message.content or "", message.reasoning_content
        if thought is None:
            channel: Channel = self._open(writer, thinking=False) if opens else "any"
            writer.write(content)
            return "answer" if content else channel
        writer.write(ASSISTANT if opens else "", *self.before_thought, thought)
        if not content:
            return "thought"
        writer.write(*self.after_thought, content)
        return "answer"


class DeepSeekV31(DeepSeekV3):
    """V3.1 and Terminus: one model for both modes; every past answer is shown as if it had not been thought about."""

    before_thought = (THINK,)
    after_thought = (END_THINK,)
    no_thought = (END_THINK,)

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer, "deepseek-v3.1")

    def _open_past(self, writer: PromptWriter) -> None:
        writer.write(ASSISTANT, *self.no_thought)

    def _describe(self, writer: PromptWriter, tools: Sequence[Tool]) -> None:
        """Word for word as on the model card, which the model was trained with."""
        writer.write("## Tools\nYou have access to the following tools:\n\n")
        for tool in tools:
            parameters = json_text(tool.as_json()["parameters"])
            writer.write(f"### {tool.name}\nDescription: {tool.description}\n\nParameters: {parameters}\n\n")
        writer.write("IMPORTANT: ALWAYS adhere to this exact format for tool use:\n")
        writer.write(CALLS, CALL, "tool_call_name", SEPARATOR, "tool_call_arguments", END_CALL)
        writer.write("{additional_tool_calls}", END_CALLS)
        writer.write(
            "\n\nWhere:\n- `tool_call_name` must be an exact match to one of the available tools\n"
            "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n"
            "- For multiple tool calls, chain them directly without separators or spaces"
        )

    def _write_calls(self, writer: PromptWriter, calls: Sequence[ToolCall]) -> None:
        writer.write(CALLS)
        for call in calls:
            writer.write(CALL, call.name, SEPARATOR, call.arguments, END_CALL)
        writer.write(END_CALLS)

    def _write_results(self, writer: PromptWriter, results: Sequence[str]) -> None:
        for result in results:
            writer.write(RESULT, result, END_RESULT)
