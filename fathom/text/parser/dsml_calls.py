"""Tool calls as DeepSeek V3.2 writes them: XML-like elements whose names begin with `｜DSML｜`.

Source: encoding_dsv32.py in the release. A parameter marked string="true" is plain text without escapes, any other is
JSON; both become the members of one JSON object, which streams as they come.
"""

import json
import re
from typing import Literal

from fathom.text.parser.calls import CallReader, spelling
from fathom.text.parser.events import Event
from fathom.text.parser.lexer import Lexeme

DSML = "｜DSML｜"
_INVOKE = re.compile(rf'\s*<{DSML}invoke name="([^"]*)">\n?')
_PARAMETER = re.compile(rf'\s*<{DSML}parameter name="([^"]*)" string="(true|false)">')
_END_PARAMETER = f"</{DSML}parameter>"
_END_INVOKE = re.compile(rf"\s*</{DSML}invoke>")
_END_CALLS = re.compile(rf"\s*</{DSML}function_calls>")
_MALFORMED = 8192  # characters of what is no element, after which a call is given up


class DsmlCalls(CallReader):
    """One block of calls. Its tags are ordinary text to the lexer but for the one that opens the block."""

    opening = f"<{DSML}function_calls>"
    tags = (f"<{DSML}function_calls>",)

    def open(self) -> None:
        """Begin after the opening tag."""
        super().open()
        self._state: Literal["between", "parameters", "text", "json"] = "between"
        self._text = ""  # read, and not yet understood
        self._members = 0

    def take(self, lexeme: Lexeme) -> list[Event | str]:
        """Read on."""
        self._text += spelling(lexeme)
        if self._state == "between":
            self._kept += spelling(lexeme)
        said: list[Event | str] = []
        while self.active and (step := self._step()) is not None:
            said += step
        return said

    def finish(self) -> list[Event | str]:
        """End in the middle: an open call ends with what it has."""
        self.active = False
        if self._state == "between":
            kept, self._kept = self._kept, ""
            return [kept] if kept.strip() else []
        if self._state in ("text", "json"):
            said = self._value(self._text)
            return [*said, *(self._arguments('"') if self._state == "text" else []), *self._close()]
        return [*self._close(), *([self._text] if self._text.strip() else [])]

    def _step(self) -> list[Event | str] | None:
        """What the next element says, None when more text is needed for it."""
        match self._state:
            case "between":
                return self._between()
            case "parameters":
                return self._between_parameters()
            case _:
                return self._in_parameter()

    def _between(self) -> list[Event | str] | None:
        if end := _END_CALLS.match(self._text):
            rest, self._kept, self.active = self._text[end.end() :], "", False
            return [rest] if rest else []
        if invoke := _INVOKE.match(self._text):
            self._text, self._state, self._members = self._text[invoke.end() :], "parameters", 0
            return [self._begin(invoke.group(1))]
        return self._reject() if _cannot_be(self._text, (f"<{DSML}invoke name=", f"</{DSML}function_calls>")) else None

    def _between_parameters(self) -> list[Event | str] | None:
        if end := _END_INVOKE.match(self._text):
            self._text, self._state = self._text[end.end() :], "between"
            self._kept = self._text
            return self._close()
        if parameter := _PARAMETER.match(self._text):
            name, is_text = parameter.group(1), parameter.group(2) == "true"
            self._text, self._state = self._text[parameter.end() :], "text" if is_text else "json"
            before = ", " if self._members else "{"
            self._members += 1
            return self._arguments(f"{before}{json.dumps(name, ensure_ascii=False)}: " + ('"' if is_text else ""))
        if _cannot_be(self._text, (f"<{DSML}parameter name=", f"</{DSML}invoke>")):
            self._state, self._kept = "between", self._text
            return [*self._close(), *self._reject()]
        return None

    def _in_parameter(self) -> list[Event | str] | None:
        value, end, rest = self._text.partition(_END_PARAMETER)
        if end:
            said = self._value(value) + (self._arguments('"') if self._state == "text" else [])
            self._text, self._state = rest, "parameters"
            return said
        held = _overlap(self._text, _END_PARAMETER)
        ready = self._text[: len(self._text) - held]
        if not ready:
            return None
        self._text = self._text[len(ready) :]
        return self._value(ready) or None

    def _value(self, text: str) -> list[Event | str]:
        return self._arguments(json.dumps(text, ensure_ascii=False)[1:-1] if self._state == "text" else text)

    def _close(self) -> list[Event | str]:
        return [*self._arguments("}" if self._members else "{}"), self._end()]


def _cannot_be(text: str, elements: tuple[str, ...]) -> bool:
    """Whether `text` is not the beginning of any of these elements."""
    text = text.lstrip()
    return not any(element.startswith(text[: len(element)]) for element in elements) or len(text) > _MALFORMED


def _overlap(text: str, end: str) -> int:
    """Length of the longest proper beginning of `end` that `text` ends with."""
    for length in range(min(len(text), len(end) - 1), 0, -1):
        if text.endswith(end[:length]):
            return length
    return 0
