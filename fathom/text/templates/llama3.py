"""Llama 3's dialect, also of models trained from it."""

from fathom.text.templates.prompt import Channel, Control, PromptWriter
from fathom.text.templates.template import Conversation, EncodedTemplate
from fathom.text.tokenizer import Tokenizer

BEGIN = Control("<|begin_of_text|>")
HEADER = Control("<|start_header_id|>")
END_HEADER = Control("<|end_header_id|>")
END = Control("<|eot_id|>")


class Llama3(EncodedTemplate):
    """Llama 3, without tools (those of 3.1 change with release and date: the checkpoint's own template serves them)."""

    knows_tools = False

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer, "llama-3")

    def _write(self, writer: PromptWriter, conversation: Conversation) -> Channel:
        writer.write(BEGIN)
        for message in conversation.messages:
            content = message.content or ""
            if message.prefix:
                writer.write(HEADER, "assistant", END_HEADER, "\n\n", content)
                return "answer" if content else "any"
            role = "system" if message.role == "developer" else message.role
            writer.write(HEADER, role, END_HEADER, "\n\n", content.strip(), END)
        writer.write(HEADER, "assistant", END_HEADER, "\n\n")
        return "any"
