"""The parser of plain completions: all text is answer."""

from fathom.text.parser.events import Answer, Event, Place
from fathom.text.text_stream import TextStream
from fathom.text.tokenizer import Tokenizer


class PlainParser:
    """A StreamParser that yields only answers, every character as it is."""

    place: Place = "answer"
    entered_with = ""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.thought_tokens = 0
        self._stream = TextStream(tokenizer)
        self._stop_ids = tokenizer.stop_ids

    def push(self, id: int) -> list[Event]:
        """The text that this token completes."""
        text = "" if id in self._stop_ids else self._stream.push(id)
        return [Answer(text)] if text else []

    def finish(self) -> list[Event]:
        """What was incomplete, as U+FFFD."""
        text = self._stream.flush()
        return [Answer(text)] if text else []
