"""Keeps strings that came from outside apart from a template's own text.

Jinja joins both into one string, in which a user's "<|im_end|>" would look like the template's. So each outside string
that spells a control token, or could become part of one, gets a number nobody can guess put into the spelling. What is
rendered is then cut at control tokens, all of them the template's own, and the number taken out of what lies between.
"""

import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property

from fathom.text.tokenizer import Tokenizer

# Words of JSON schema, by which templates look things up: the only keys of outside objects that stay as they are.
_SCHEMA_WORDS = frozenset(
    {"type", "properties", "required", "description", "items", "enum", "const", "default", "title", "format", "pattern"}
    | {"anyOf", "oneOf", "allOf", "additionalProperties", "minimum", "maximum", "$ref", "$defs"}
)


class Guard:
    """Marks outside strings for one rendering."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._number = f"{secrets.randbelow(10**32):032d}"  # digits survive filters such as upper

    def protect(self, value: object) -> object:
        """The same JSON value with every string in it marked where need be, keys of objects included.

        A template's own keys (such as "content") must not be in it: it would no longer find them.
        """
        if isinstance(value, str):
            return self._protect(value)
        if isinstance(value, Mapping):
            return {self._protect_key(key): self.protect(item) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self.protect(item) for item in value]
        return value

    def reveal(self, text: str) -> str:
        """Text between control tokens as it was meant."""
        return text.replace(self._number, "")

    def _protect_key(self, key: str) -> str:
        return key if key in _SCHEMA_WORDS else self._protect(key)

    def _protect(self, text: str) -> str:
        if not text or not self._tokenizer.control:
            return text
        starts = self._could_continue(text)
        ends = any(text[-length:] in self._beginnings for length in range(1, min(len(text), self._longest) + 1))
        text = self._tokenizer.control_pattern.sub(lambda match: match[0][0] + self._number + match[0][1:], text)
        return (self._number if starts else "") + text + (self._number if ends else "")

    def _could_continue(self, text: str) -> bool:
        """Whether a control token could begin before `text` and reach into it."""
        if len(text) < self._longest and any(text in token for token in self._tokenizer.control):
            return True
        return any(text[:length] in self._ends for length in range(1, min(len(text), self._longest) + 1))

    @cached_property
    def _longest(self) -> int:
        return max(len(token) for token in self._tokenizer.control)

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        return frozenset(token[:length] for token in self._tokenizer.control for length in range(1, len(token)))

    @cached_property
    def _ends(self) -> frozenset[str]:
        return frozenset(token[-length:] for token in self._tokenizer.control for length in range(1, len(token)))
