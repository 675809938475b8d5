"""What every chat template offers, and what our own encoders share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from fathom.text.errors import TemplateError
from fathom.text.messages import Message, Tool, split_thought, validate_conversation
from fathom.text.parser.chat_parser import ChatParser
from fathom.text.parser.events import StreamParser
from fathom.text.parser.formats import CallFormat
from fathom.text.templates.generic_tools import as_plain_messages
from fathom.text.templates.prompt import Channel, Prompt, PromptWriter
from fathom.text.tokenizer import Tokenizer


class ChatTemplate(Protocol):
    """How one family of models wants conversations written, and how it writes its answers."""

    @property
    def name(self) -> str:
        """The dialect, such as "deepseek-v3.1" or "chatml"; "jinja" for a checkpoint's own template."""

    @property
    def thinks(self) -> bool:
        """Whether thinking can be asked for."""

    @property
    def call_format(self) -> CallFormat | None:
        """How the model writes tool calls; None where tools cannot be offered at all."""

    def render(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), thinking: bool = False) -> Prompt:
        """The prompt that makes the model write the next assistant turn, or continue a last one with `prefix`.

        Raises MessageError for conversations that make no sense, TemplateError for what the dialect cannot express.
        """

    def parser(self, prompt: Prompt) -> StreamParser:
        """A parser of what the model writes after this prompt."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is to be rendered."""

    messages: Sequence[Message]
    tools: Sequence[Tool]
    thinking: bool


class EncodedTemplate(ABC):
    """A dialect written by our own code: control tokens come from the code alone, so text can never forge them."""

    call_format: ClassVar[CallFormat] = CallFormat.HERMES
    knows_tools: ClassVar[bool] = True  # whether the dialect itself describes tools and shows calls
    has_thoughts: bool = False  # whether answers in the history may still hold their thoughts in tags

    def __init__(self, tokenizer: Tokenizer, name: str, *, thinks: bool = False) -> None:
        self.tokenizer = tokenizer
        self.name = name
        self.thinks = thinks

    def render(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), thinking: bool = False) -> Prompt:
        """See ChatTemplate."""
        validate_conversation(messages, tools)
        check_request(self, messages, thinking)
        uses_tools = bool(tools) or any(message.tool_calls for message in messages)
        if self.has_thoughts:
            messages = [split_thought(message) for message in messages]
        if uses_tools and not self.knows_tools:
            messages, tools = as_plain_messages(messages, tools), ()
        writer = PromptWriter(self.tokenizer)
        channel = self._write(writer, Conversation(messages, tools, thinking))
        return writer.prompt(channel, tools=uses_tools)

    def parser(self, prompt: Prompt) -> StreamParser:
        """See ChatTemplate."""
        return ChatParser(self.tokenizer, prompt.channel, self.call_format if prompt.tools else None)

    @abstractmethod
    def _write(self, writer: PromptWriter, conversation: Conversation) -> Channel: ...


def check_request(template: ChatTemplate, messages: Sequence[Message], thinking: bool) -> None:
    """Raise TemplateError for what a template has no way to say, rather than leave it out."""
    if thinking and not template.thinks:
        raise TemplateError(f"the dialect {template.name} has no thinking mode: ask without thinking")
    if messages[-1].reasoning_content and messages[-1].prefix and not template.thinks:
        raise TemplateError(
            f"the dialect {template.name} has no thoughts that could be continued: drop reasoning_content"
        )
