"""From token ids to text and tags."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from fathom.text.text_stream import TextStream
from fathom.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Mark:
    """A tag. `certain`: the model wrote its control token, which text cannot spell."""

    tag: str
    certain: bool


Lexeme = str | Mark


class Lexer:
    """Finds tags in a stream of ids.

    A tag that the vocabulary has as a control token is that token and nothing else: the same letters written with other
    tokens are text. A tag that it has not is found in the text; text that may be the beginning of one is held back.
    Tokens that end a turn yield nothing; any other control token is shown as its name.
    """

    def __init__(self, tokenizer: Tokenizer, tags: Iterable[str]) -> None:
        self._tokenizer = tokenizer
        self._stream = TextStream(tokenizer)
        self._ids = {id: tag for tag in tags if (id := tokenizer.control_id(tag)) is not None}
        self._spelled = tuple(tag for tag in tags if tokenizer.control_id(tag) is None)
        self._pattern = re.compile("|".join(re.escape(tag) for tag in sorted(self._spelled, key=len, reverse=True)))
        self._control_ids = frozenset(
            token.id
            for name, token in tokenizer.control.items()
            if not any(name in tag for tag in self._spelled)  # a part of a tag's spelling, such as V3.2's mark
        )
        self._held = ""

    def push(self, id: int) -> list[Lexeme]:
        """The lexemes that this token completes."""
        if id in self._tokenizer.stop_ids:
            return self.finish()
        if id in self._ids:
            return [*self.finish(), Mark(self._ids[id], certain=True)]
        if id in self._control_ids:
            return [*self.finish(), self._tokenizer.decode([id])]
        return self._scan(self._stream.push(id))

    def finish(self) -> list[Lexeme]:
        """What was held back: it was no tag."""
        lexemes = self._scan(self._stream.flush())
        held, self._held = self._held, ""
        return [*lexemes, held] if held else lexemes

    def _scan(self, text: str) -> list[Lexeme]:
        text = self._held + text
        lexemes: list[Lexeme] = []
        start = 0
        for match in self._pattern.finditer(text) if self._spelled else ():
            lexemes += [text[start : match.start()], Mark(match.group(), certain=False)]
            start = match.end()
        end = len(text) - self._partial(text[start:])
        lexemes.append(text[start:end])
        self._held = text[end:]
        return [lexeme for lexeme in lexemes if lexeme]

    def _partial(self, text: str) -> int:
        """The length of the longest end of `text` with which a tag could begin."""
        longest = max((len(tag) - 1 for tag in self._spelled), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(tag.startswith(text[-length:]) for tag in self._spelled):
                return length
        return 0
