"""DeepSeek V3.2's dialect. It ships no template but a program, encoding_dsv32.py; this writes what that writes.

Thoughts belong to a turn of the person: those after the last user message are shown (so that a model which calls tools
goes on from its own thinking), earlier ones are left out. The answer's opening belongs to the message before it.
"""

import json
from collections.abc import Sequence

from fathom.text.messages import Message, Tool, ToolCall, json_text
from fathom.text.parser.dsml_calls import DSML
from fathom.text.parser.formats import CallFormat
from fathom.text.templates.deepseek import ASSISTANT, BEGIN, END, END_THINK, THINK, USER
from fathom.text.templates.prompt import Channel, Control, PromptWriter
from fathom.text.templates.template import Conversation, EncodedTemplate
from fathom.text.tokenizer import Tokenizer

MARK = Control(DSML)

# Word for word as in the release; "@" stands for the mark.
_TOOLS = """## Tools
You have access to a set of tools you can use to answer the user's question.
You can invoke functions by writing a "<@function_calls>" block like the following as part of your reply to the user:
<@function_calls>
<@invoke name="$FUNCTION_NAME">
<@parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</@parameter>
...
</@invoke>
<@invoke name="$FUNCTION_NAME2">
...
</@invoke>
</@function_calls>
String and scalar parameters should be specified as is without any escaping or quotes, while lists and objects should \
use JSON format. The "string" attribute should be set to "true" for string type parameters and "false" for other types \
(numbers, booleans, arrays, objects).
If the thinking_mode is enabled, then after function results you should strongly consider outputting a thinking block. \
Here is an example:
<@function_calls>
...
</@function_calls>
<function_results>
...
</function_results>
"""
_AFTER_EXAMPLE = "\nHere are the functions available in JSONSchema format:\n<functions>\n"


class DeepSeekV32(EncodedTemplate):
    """V3.2: one model for both modes, which also thinks between tool calls."""

    call_format = CallFormat.DEEPSEEK_V32
    has_thoughts = True

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer, "deepseek-v3.2", thinks=True)

    def _write(self, writer: PromptWriter, conversation: Conversation) -> Channel:
        writer.write(BEGIN)
        messages = conversation.messages
        last = messages[-1]
        thinks = last.reasoning_content is not None if last.prefix else conversation.thinking
        last_user = max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)
        if conversation.tools and messages[0].role not in ("system", "developer"):
            self._describe(writer, conversation.tools)
        for index, message in enumerate(messages):
            shows_thought = thinks and index >= last_user
            match message.role:
                case "user":
                    writer.write(USER, message.content or "", ASSISTANT, THINK if shows_thought else END_THINK)
                case "tool":
                    self._write_result(writer, messages, index, shows_thought)
                case "assistant":
                    self._write_answer(writer, message, shows_thought)
                case _:
                    writer.write(message.content or "")
                    if conversation.tools and index == 0:
                        self._describe(writer, conversation.tools)
        if last.prefix:
            return "answer" if last.content or not thinks else "thought"
        if last.role not in ("user", "tool"):
            writer.write(ASSISTANT, THINK if thinks else END_THINK)
        return "thought" if thinks else "answer"

    def _describe(self, writer: PromptWriter, tools: Sequence[Tool]) -> None:
        writer.write("\n\n")
        for number, piece in enumerate(_TOOLS.split("@")):
            writer.write(*([MARK] if number else []), piece)
        writer.write(THINK, "...thinking about results", END_THINK, _AFTER_EXAMPLE)
        writer.write("\n".join(json_text(tool.as_json()) for tool in tools), "\n</functions>\n")

    def _write_answer(self, writer: PromptWriter, message: Message, shows_thought: bool) -> None:
        if shows_thought:
            writer.write(message.reasoning_content or "")
            if message.prefix and not message.content:
                return
            writer.write(END_THINK)
        writer.write(message.content or "")
        if message.tool_calls:
            self._write_calls(writer, message.tool_calls)
        if not message.prefix:
            writer.write(END)

    def _write_calls(self, writer: PromptWriter, calls: Sequence[ToolCall]) -> None:
        writer.write("\n\n<", MARK, "function_calls>\n")
        for call in calls:
            writer.write("<", MARK, f'invoke name="{call.name}">\n')
            for number, (name, value) in enumerate(_parameters(call).items()):
                kind, text = ("true", value) if isinstance(value, str) else ("false", json_text(value))
                writer.write("\n" if number else "", "<", MARK, f'parameter name="{name}" string="{kind}">', text)
                writer.write("</", MARK, "parameter>")
            writer.write("\n</", MARK, "invoke>\n")
        writer.write("</", MARK, "function_calls>")

    def _write_result(self, writer: PromptWriter, messages: Sequence[Message], index: int, shows_thought: bool) -> None:
        """One result; the first opens the block of results, the last closes it and opens what follows."""
        if messages[index - 1].role != "tool":
            writer.write("\n\n<function_results>")
        writer.write("\n<result>", messages[index].content or "", "</result>")
        if index + 1 == len(messages) or messages[index + 1].role != "tool":
            writer.write("\n</function_results>\n\n", THINK if shows_thought else END_THINK)


def _parameters(call: ToolCall) -> dict[str, object]:
    """A call's arguments by name; what is no JSON object is shown as one text."""
    try:
        arguments = json.loads(call.arguments)
    except (json.JSONDecodeError, RecursionError):
        arguments = None
    return arguments if isinstance(arguments, dict) else {"arguments": call.arguments}
