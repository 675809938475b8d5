"""One parser for every dialect: thoughts, answers and tool calls out of a chat model's tokens."""

from fathom.text.parser.calls import CallReader, spelling
from fathom.text.parser.deepseek_calls import DeepSeekCalls
from fathom.text.parser.dsml_calls import DsmlCalls
from fathom.text.parser.events import Answer, Event, Place, Thought, ToolCallStart
from fathom.text.parser.formats import CallFormat
from fathom.text.parser.hermes_calls import HermesCalls
from fathom.text.parser.lexer import Lexeme, Lexer, Mark
from fathom.text.templates.prompt import Channel
from fathom.text.tokenizer import Tokenizer

_READERS: dict[CallFormat, type[CallReader]] = {
    CallFormat.DEEPSEEK_V3: DeepSeekCalls,
    CallFormat.DEEPSEEK_V31: DeepSeekCalls,
    CallFormat.DEEPSEEK_V32: DsmlCalls,
    CallFormat.HERMES: HermesCalls,
}
_THINK, _END_THINK = "<think>", "</think>"


class ChatParser:
    """A StreamParser. It knows from the prompt's channel where it begins, so the opening tag may be there or not.

    A thought may open as long as nothing of the answer has come. White space at both ends of a thought, before the
    answer that follows it, and around tool calls belongs to the markup and is left out; all other text comes out.
    Without a `call_format` tool calls are text.
    """

    def __init__(self, tokenizer: Tokenizer, channel: Channel, call_format: CallFormat | None = None) -> None:
        self.thought_tokens = 0
        self._calls = _READERS[call_format]() if call_format else None
        self._lexer = Lexer(tokenizer, (_THINK, _END_THINK, *(self._calls.tags if self._calls else ())))
        self._stop_ids = tokenizer.stop_ids
        self._thinking = channel == "thought"
        self._passage = Passage(trimmed=self._thinking)
        self.entered_with = ""

    @property
    def place(self) -> Place:
        """See StreamParser."""
        if self._calls and self._calls.active:
            return "call"
        return "thought" if self._thinking else "answer"

    def push(self, id: int) -> list[Event]:
        """The events that this token completes."""
        was_thinking = self._thinking
        self.entered_with = ""
        events = [event for lexeme in self._lexer.push(id) for event in self._take(lexeme)]
        self.thought_tokens += was_thinking and self._thinking and id not in self._stop_ids
        return events

    def finish(self) -> list[Event]:
        """What was held back, now that no more tokens come."""
        events = [event for lexeme in self._lexer.finish() for event in self._take(lexeme)]
        if self._calls and self._calls.active:
            events += self._route(self._calls.finish())
        rest = self._passage.rest()
        return [*events, Answer(rest)] if rest and not self._thinking else events

    def _take(self, lexeme: Lexeme) -> list[Event]:
        if not (self._calls and self._calls.active) and isinstance(lexeme, Mark) and self._follow(lexeme):
            self.entered_with = ""
            return []
        self.entered_with += spelling(lexeme)
        if self._calls and self._calls.active:
            return self._route(self._calls.take(lexeme))
        return self._say(spelling(lexeme))

    def _follow(self, mark: Mark) -> bool:
        """Go where a tag leads; False where it leads nowhere and is text."""
        if self._calls and mark.tag == self._calls.opening and (mark.certain or not self._thinking):
            if self._thinking:  # a call needs no closing tag before it
                self._enter(thinking=False)
            self._calls.open()
            return True
        if mark.tag == _THINK and not self._passage.begun:  # also a second one, where the prompt has one already
            self._enter(thinking=True)
            return True
        if mark.tag == _END_THINK and (self._thinking or not self._passage.begun):
            self._enter(thinking=False)
            return True
        return False

    def _enter(self, *, thinking: bool) -> None:
        self._thinking = thinking
        self._passage = Passage(trimmed=True)

    def _route(self, read: list[Event | str]) -> list[Event]:
        """Events of the call reader as they are; the text it hands back as part of the answer."""
        events: list[Event] = []
        for item in read:
            if isinstance(item, str):
                events += self._say(item)
                continue
            if isinstance(item, ToolCallStart):
                self._enter(thinking=False)
            events.append(item)
        return events

    def _say(self, text: str) -> list[Event]:
        said = self._passage.add(text)
        if not said:
            return []
        return [Thought(said) if self._thinking else Answer(said)]


class Passage:
    """The text of one thought or answer as it comes; white space at its end waits until something follows.

    `trimmed`: the white space before it is left out: whole lines of it, so that the first line keeps its indentation.
    """

    def __init__(self, *, trimmed: bool) -> None:
        self.begun = False
        self._trimmed = trimmed
        self._held = ""

    def add(self, text: str) -> str:
        """As much of the passage as can be said now."""
        text = self._held + text
        body = text.rstrip()
        self._held = text[len(body) :]
        if body and not self.begun:
            self.begun = True
            return _without_blank_lines(body) if self._trimmed else body
        return body

    def rest(self) -> str:
        """The white space at the end, if it belongs to the passage."""
        held, self._held = self._held, ""
        return held if self.begun or not self._trimmed else ""


def _without_blank_lines(text: str) -> str:
    lead = text[: len(text) - len(text.lstrip())]
    return text[lead.rfind("\n") + 1 :] if "\n" in lead else text[len(lead) :]
