"""What stands in for a tokenizer and a template where the model is elsewhere: prompts that carry their conversation."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fathom.engine.sampling import SamplingParams
from fathom.text import Message, Prompt, Tool
from fathom.text.parser.formats import CallFormat

# https://api-docs.deepseek.com/quick_start/token_usage: an English character is about 0.3 tokens, a Chinese one 0.6.
_TOKENS_PER_CHARACTER, _TOKENS_PER_WIDE_CHARACTER = 0.3, 0.6
_MOST_WORDS = 2**20


@dataclass(frozen=True, slots=True)
class UpstreamPrompt(Prompt):
    """A conversation, or a text to continue, as the upstream gets it. Its `ids` only have the length of an estimate."""

    messages: Sequence[Message] = ()
    offered: Sequence[Tool] = ()
    thinking: bool = False
    plain: str | tuple[int, ...] | None = None
    suffix: str | None = None


@dataclass(frozen=True, slots=True)
class GivenParams(SamplingParams):
    """Sampling parameters that remember which of them the client gave: the upstream has defaults of its own."""

    given: frozenset[str] = frozenset()


class Words:
    """Token texts that upstreams send with log probabilities, numbered so that they can pass for token ids."""

    def __init__(self) -> None:
        self._ids: dict[bytes, int] = {}
        self._texts: list[bytes] = []
        self._lock = threading.Lock()

    def id(self, entry: dict[str, Any]) -> int:
        """The number of a token as an entry of `logprobs.content` describes it."""
        data = bytes(entry["bytes"]) if entry.get("bytes") is not None else str(entry["token"]).encode()
        with self._lock:
            if data not in self._ids:
                if len(self._texts) >= _MOST_WORDS:
                    return 0
                self._ids[data] = len(self._texts)
                self._texts.append(data)
            return self._ids[data]

    def text(self, id: int) -> bytes:
        """The text behind a number."""
        return self._texts[id]


class UpstreamTokenizer:
    """As much of a tokenizer's face as the server asks for."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def encode(self, text: str) -> range:
        """As many numbers as the text has tokens, by DeepSeek's rule of thumb."""
        wide = sum(character > "\u2e7f" for character in text)
        return range(round(_TOKENS_PER_CHARACTER * (len(text) - wide) + _TOKENS_PER_WIDE_CHARACTER * wide) + 1)

    def token_bytes(self, id: int) -> bytes:
        """The text of a token of which log probabilities were sent."""
        return self._words.text(id)

    def id_of(self, token: str) -> None:
        """Nothing is known of the vocabulary."""


class UpstreamTemplate:
    """As much of a template's face as the server asks for."""

    name = "upstream"
    call_format = CallFormat.HERMES  # the upstream writes and reads calls in its own way

    def __init__(self) -> None:
        self.thinks = True
