"""What readers of tool calls have in common."""

import secrets
from abc import ABC, abstractmethod
from typing import ClassVar

from fathom.text.parser.events import Event, ToolCallArguments, ToolCallEnd, ToolCallStart
from fathom.text.parser.lexer import Lexeme, Mark


class CallReader(ABC):
    """Reads tool calls from the tag that opens them to the one that closes them.

    Until a call's name and the beginning of its arguments are known, what was read is kept; if it turns out to be no
    call, it is handed back as text (a plain string among the events) and `active` ends. Once begun, a call's arguments
    are passed on as they come, well-formed or not, so nothing is ever lost.
    """

    opening: ClassVar[str]
    tags: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        self.active = False
        self._index = 0
        self._kept = ""

    def open(self) -> None:
        """Begin after the opening tag."""
        self.active = True
        self._kept = self.opening

    @abstractmethod
    def take(self, lexeme: Lexeme) -> list[Event | str]:
        """Read on."""

    @abstractmethod
    def finish(self) -> list[Event | str]:
        """End in the middle, because no more tokens come."""

    def _begin(self, name: str) -> ToolCallStart:
        self._kept = ""
        # Ids as DeepSeek's API gives them; the random part keeps those of different answers apart.
        return ToolCallStart(self._index, f"call_{self._index:02d}_{secrets.token_urlsafe(18)}", name)

    def _arguments(self, text: str) -> list[Event | str]:
        return [ToolCallArguments(self._index, text)] if text else []

    def _end(self) -> ToolCallEnd:
        self._index += 1
        return ToolCallEnd(self._index - 1)

    def _reject(self) -> list[Event | str]:
        """Hand back what was kept: it is no call."""
        kept, self._kept, self.active = self._kept, "", False
        return [kept] if kept else []


def spelling(lexeme: Lexeme) -> str:
    """A lexeme as text."""
    return lexeme.tag if isinstance(lexeme, Mark) else lexeme
