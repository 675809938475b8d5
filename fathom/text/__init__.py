"""Tokenizers, chat templates, and the one parser of thoughts and tool calls."""

from fathom.text.errors import MessageError, TemplateError, TextError, TokenizerError
from fathom.text.grammars import Calls, Grammar, GrammarError, answer_grammar
from fathom.text.messages import Message, Tool, ToolCall
from fathom.text.parser.events import (
    Answer,
    Event,
    StreamParser,
    Thought,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from fathom.text.parser.plain_parser import PlainParser
from fathom.text.templates.missing import MissingTemplate
from fathom.text.templates.prompt import Channel, Prompt
from fathom.text.templates.select import chat_template
from fathom.text.templates.template import ChatTemplate
from fathom.text.text_stream import TextStream
from fathom.text.tokenizer import Tokenizer

__all__ = [
    "Answer",
    "Calls",
    "Channel",
    "ChatTemplate",
    "Event",
    "Grammar",
    "GrammarError",
    "Message",
    "MessageError",
    "MissingTemplate",
    "PlainParser",
    "Prompt",
    "StreamParser",
    "TemplateError",
    "TextError",
    "TextStream",
    "Thought",
    "Tokenizer",
    "TokenizerError",
    "Tool",
    "ToolCall",
    "ToolCallArguments",
    "ToolCallEnd",
    "ToolCallStart",
    "answer_grammar",
    "chat_template",
]
