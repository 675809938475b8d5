"""ChatML (Qwen, SmolLM2 and many others), with tool calls the way Hermes and Qwen2.5 write them."""

from collections.abc import Sequence
from itertools import groupby

from fathom.text.messages import Message, Tool, json_text
from fathom.text.parser.formats import CallFormat
from fathom.text.templates.calls_text import call_json
from fathom.text.templates.prompt import Channel, Control, PromptWriter
from fathom.text.templates.template import Conversation, EncodedTemplate
from fathom.text.tokenizer import Tokenizer

START = Control("<|im_start|>")
END = Control("<|im_end|>")
CALL = Control("<tool_call>")
END_CALL = Control("</tool_call>")
THINK = Control("<think>")
END_THINK = Control("</think>")
RESULT = Control("<tool_response>")
END_RESULT = Control("</tool_response>")


class ChatML(EncodedTemplate):
    """`default_system` stands in where a conversation begins without a system message; None for none.

    `thinks`: for weights or an adapter trained to think (as Fathom's R1 recipe does): a thought stands in
    `<think>` tags before the answer, as tokens where the vocabulary has them and else as text, and is left out of the
    history.
    """

    call_format = CallFormat.HERMES

    def __init__(self, tokenizer: Tokenizer, default_system: str | None = None, *, thinks: bool = False) -> None:
        super().__init__(tokenizer, "chatml", thinks=thinks)
        self.default_system = default_system
        self.has_thoughts = thinks

    def _write(self, writer: PromptWriter, conversation: Conversation) -> Channel:
        messages, tools = conversation.messages, conversation.tools
        begins_with_system = messages[0].role in ("system", "developer")
        system = messages[0].content if begins_with_system else self.default_system
        if system is not None or tools:
            self._write_system(writer, system, tools)
        turns = messages[1:] if begins_with_system else messages
        for is_results, group in groupby(turns, key=lambda message: message.role == "tool"):
            if is_results:
                self._write_results(writer, list(group))
                continue
            for message in group:
                if message.prefix:
                    return self._continue(writer, message)
                self._write_turn(writer, message)
        writer.write(START, "assistant\n")
        if conversation.thinking:
            writer.write(THINK, "\n")
            return "thought"
        return "any"

    def _continue(self, writer: PromptWriter, message: Message) -> Channel:
        """Write the beginning of a turn that the model is to go on with."""
        content, thought = message.content or "", message.reasoning_content
        writer.write(START, "assistant\n")
        if thought is not None and self.thinks:
            writer.write(THINK, "\n", thought)
            if not content:
                return "thought"
            writer.write("\n", END_THINK, "\n\n")
        writer.write(content)
        return "answer" if content else "any"

    def _write_system(self, writer: PromptWriter, system: str | None, tools: Sequence[Tool]) -> None:
        writer.write(START, "system\n", system or "")
        if tools:
            writer.write("\n\n" if system else "", "# Tools\n\n")
            writer.write("You may call one or more functions to assist with the user query.\n\n")
            writer.write("You are provided with function signatures within <tools></tools> XML tags:\n<tools>")
            for tool in tools:
                writer.write("\n", json_text({"type": "function", "function": tool.as_json()}))
            writer.write("\n</tools>\n\nFor each function call, return a json object with function name and arguments ")
            writer.write("within ", CALL, END_CALL, " XML tags:\n", CALL)
            writer.write('\n{"name": <function-name>, "arguments": <args-json-object>}\n', END_CALL)
        writer.write(END, "\n")

    def _write_turn(self, writer: PromptWriter, message: Message) -> None:
        role = "system" if message.role == "developer" else message.role
        content = (message.content or "").lstrip("\n") if self.thinks else message.content or ""
        writer.write(START, role)
        if content or not message.tool_calls:
            writer.write("\n", content)
        for call in message.tool_calls:
            writer.write("\n", CALL, f"\n{call_json(call)}\n", END_CALL)
        writer.write(END, "\n")

    def _write_results(self, writer: PromptWriter, results: Sequence[Message]) -> None:
        writer.write(START, "user")
        for result in results:
            writer.write("\n", RESULT, f"\n{result.content}\n", END_RESULT)
        writer.write(END, "\n")
