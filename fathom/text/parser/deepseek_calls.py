"""Tool calls as DeepSeek V3, R1 and V3.1 write them, between control tokens."""

import re
from typing import Literal

from fathom.text.parser.calls import CallReader, spelling
from fathom.text.parser.events import Event
from fathom.text.parser.lexer import Lexeme, Mark

_CALLS, _END_CALLS = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _END_CALL, _SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
_FENCE = re.compile(r"\s*([^\s`]+)[ \t]*\n\s*```(?:json)?[ \t]*\n")
_BARE = re.compile(r"\s*(?=\{)")


class DeepSeekCalls(CallReader):
    """V3 and R1 write `function<sep>NAME`, a newline and fenced JSON; V3.1 writes `NAME<sep>JSON`.

    Both are read whichever is expected: the text after the separator shows which it is.
    """

    opening = _CALLS
    tags = (_CALLS, _END_CALLS, _CALL, _END_CALL, _SEPARATOR)

    def open(self) -> None:
        """Begin after the opening tag."""
        super().open()
        self._state: Literal["between", "kind", "head", "arguments"] = "between"
        self._kind = self._head = self._tail = ""
        self._fenced = False

    def take(self, lexeme: Lexeme) -> list[Event | str]:
        """Read on."""
        if self._state == "arguments":
            return self._take_arguments(lexeme)
        self._kept += spelling(lexeme)
        if isinstance(lexeme, Mark):
            return self._take_mark(lexeme.tag)
        if self._state == "kind":
            self._kind += lexeme
        elif self._state == "head":
            return self._take_head(lexeme)
        elif lexeme.strip():
            return self._reject()
        return []

    def finish(self) -> list[Event | str]:
        """End in the middle."""
        if self._state == "arguments":
            self.active = False
            return self._complete()
        return self._reject() if self._kept.strip() else []

    def _take_mark(self, tag: str) -> list[Event | str]:
        match self._state, tag:
            case "between", str(tag) if tag == _CALL:
                self._state, self._kind, self._head = "kind", "", ""
            case "kind", str(tag) if tag == _SEPARATOR:
                self._state = "head"
            case "between", str(tag) if tag == _END_CALLS and self._kept.strip() == _END_CALLS:
                self._kept, self.active = "", False
            case _:
                return self._reject()
        return []

    def _take_head(self, text: str) -> list[Event | str]:
        self._head += text
        bare, fence = _BARE.match(self._head), _FENCE.match(self._head)
        if bare and self._kind.strip():
            name, start = self._kind.strip(), bare.end()
        elif fence and self._kind.strip() == "function":
            name, start = fence.group(1), fence.end()
        else:
            return []
        self._fenced = bare is None
        self._state, self._tail = "arguments", ""
        return [self._begin(name), *self._pass_on(self._head[start:])]

    def _take_arguments(self, lexeme: Lexeme) -> list[Event | str]:
        if isinstance(lexeme, Mark) and lexeme.tag in (_END_CALL, _END_CALLS):
            self._state = "between"
            self.active = lexeme.tag == _END_CALL
            return self._complete()
        return self._pass_on(spelling(lexeme))

    def _pass_on(self, text: str) -> list[Event | str]:
        """Arguments, but for an end that may be white space or the closing fence."""
        text = self._tail + text
        body = text.rstrip(" \t\r\n`" if self._fenced else " \t\r\n")
        self._tail = text[len(body) :]
        return self._arguments(body)

    def _complete(self) -> list[Event | str]:
        tail = self._tail.strip()
        rest = [] if tail in ("", "`", "``", "```") else self._arguments(self._tail)
        return [*rest, self._end()]
