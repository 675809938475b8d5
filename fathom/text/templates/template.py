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
    def offers_tools(self) -> bool:
        """Whether tools can be offered."""

    @property
    def shows_calls(self) -> bool:
        """Whether the history may hold tool calls and their results."""

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

    call_format: ClassVar[CallFormat | None] = None
    has_thoughts: bool = False  # whether answers in the history may still hold their thoughts in tags

    def __init__(self, tokenizer: Tokenizer, name: str, *, thinks: bool = False) -> None:
        self.tokenizer = tokenizer
        self.name = name
        self.thinks = thinks
        self.offers_tools = self.shows_calls = self.call_format is not None

    def render(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), thinking: bool = False) -> Prompt:
        """See ChatTemplate."""
        validate_conversation(messages, tools)
        check_request(self, messages, tools, thinking)
        if self.has_thoughts:
            messages = [split_thought(message) for message in messages]
        writer = PromptWriter(self.tokenizer)
        channel = self._write(writer, Conversation(messages, tools, thinking))
        return writer.prompt(channel, tools=uses_tools(messages, tools))

    def parser(self, prompt: Prompt) -> StreamParser:
        """See ChatTemplate."""
        return ChatParser(self.tokenizer, prompt.channel, self.call_format if prompt.tools else None)

    @abstractmethod
    def _write(self, writer: PromptWriter, conversation: Conversation) -> Channel: ...


def check_request(template: ChatTemplate, messages: Sequence[Message], tools: Sequence[Tool], thinking: bool) -> None:
    """Raise TemplateError for what a template has no way to say, rather than leave it out."""
    if thinking and not template.thinks:
        raise TemplateError(f"the dialect {template.name} has no thinking mode: ask without thinking")
    if messages[-1].reasoning_content and messages[-1].prefix and not template.thinks:
        raise TemplateError(
            f"the dialect {template.name} has no thoughts that could be continued: drop reasoning_content"
        )
    if tools and not template.offers_tools:
        raise TemplateError(f"the dialect {template.name} cannot offer tools: ask without tools, or use another model")
    if not template.shows_calls and any(message.tool_calls for message in messages):
        raise TemplateError(f"the dialect {template.name} cannot show tool calls: leave them out of the history")


def uses_tools(messages: Sequence[Message], tools: Sequence[Tool]) -> bool:
    """Whether tools are offered or were used."""
    return bool(tools) or any(message.tool_calls for message in messages)
