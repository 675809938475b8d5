"""Tool calls as Qwen and Hermes write them: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`."""

import json
import re

from fathom.text.parser.calls import CallReader, spelling
from fathom.text.parser.events import Event
from fathom.text.parser.lexer import Lexeme, Mark

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)+")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)', re.DOTALL)
_LONGEST_HEAD = 4096  # characters; beyond it a call is read as a whole when it closes


class HermesCalls(CallReader):
    """One call per pair of tags. The closing tag ends a call wherever it stands."""

    opening = "<tool_call>"
    tags = ("<tool_call>", "</tool_call>")

    def open(self) -> None:
        """Begin after the opening tag."""
        super().open()
        self._object: JsonObject | None = None  # the arguments, once they have begun
        self._after = ""  # what follows them

    def take(self, lexeme: Lexeme) -> list[Event | str]:
        """Read on."""
        if isinstance(lexeme, Mark) and lexeme.tag == "</tool_call>":
            return self._close(lexeme.tag)
        if self._object is not None:
            return self._read_arguments(self._object, spelling(lexeme))
        self._kept += spelling(lexeme)
        head = _HEAD.match(self._kept[:_LONGEST_HEAD], len(self.opening))
        if head is None:
            return []
        rest = self._kept[head.end() :]
        name = _text(head.group(1))
        if name is None:
            return []
        self._object = JsonObject()
        return [self._begin(name), *self._read_arguments(self._object, rest)]

    def finish(self) -> list[Event | str]:
        """End in the middle."""
        return self._close("")

    def _read_arguments(self, arguments: "JsonObject", text: str) -> list[Event | str]:
        if arguments.complete:
            self._after += text
            return []
        length = arguments.read(text)
        self._after = text[length:]
        return [*self._arguments(text[:length]), *([self._end()] if arguments.complete else [])]

    def _close(self, closing: str) -> list[Event | str]:
        if self._object is None:
            call = _whole_call(self._kept.removeprefix(self.opening)) if closing else None
            self._kept += closing
            if call is None:
                return self._reject()
            name, arguments = call
            self.active = False
            return [self._begin(name), *self._arguments(arguments), self._end()]
        self.active = False
        if not self._object.complete:
            return [self._end()]
        extra = self._after.strip().removeprefix("}").strip()
        return [extra] if extra else []


class JsonObject:
    """Finds the end of a JSON object that comes in pieces."""

    def __init__(self) -> None:
        self.complete = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def read(self, text: str) -> int:
        """How many characters of `text` belong to the object."""
        for position, character in enumerate(text):
            if self._in_string:
                self._in_string = self._escaped or character != '"'
                self._escaped = character == "\\" and not self._escaped
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.complete = True
                    return position + 1
        return len(text)


def _text(literal: str) -> str | None:
    """A JSON string's value, or None where it is not one."""
    try:
        return str(json.loads(literal, strict=False))
    except json.JSONDecodeError:
        return None


def _whole_call(text: str) -> tuple[str, str] | None:
    """Name and arguments of a call whose keys stand in another order or whose arguments are a string of JSON."""
    try:
        call = json.loads(text, strict=False)
    except (json.JSONDecodeError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"]:
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):
        return call["name"], arguments
    return (call["name"], json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None
