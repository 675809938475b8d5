"""A rendered conversation, and how templates write one."""

from dataclasses import dataclass
from typing import Literal, Self

from fathom.text.tokenizer import Tokenizer

Channel = Literal["thought", "answer", "any"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads. `channel` is where its first token belongs; "any": the model itself says.

    `text` is the same prompt for people to read. `tools`: the answer may hold tool calls.
    """

    ids: tuple[int, ...]
    text: str
    channel: Channel
    tools: bool = False


class Control(str):
    """The name of a control token in what a template writes; every other string is text, whatever it spells."""

    __slots__ = ()


class PromptWriter:
    """Collects text and control tokens. Neighbouring texts are encoded as one, as a template's output would be."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._pending: list[str] = []
        self._written: list[str] = []

    def write(self, *pieces: str) -> Self:
        """Add pieces. A control token that the vocabulary lacks is written as text, as the published templates do."""
        for piece in pieces:
            self._written.append(piece)
            id = self._tokenizer.control_id(piece) if isinstance(piece, Control) else None
            if id is None:
                self._pending.append(piece)
            else:
                self._encode_pending()
                self._ids.append(id)
        return self

    def prompt(self, channel: Channel, *, tools: bool) -> Prompt:
        """What was written so far."""
        self._encode_pending()
        return Prompt(tuple(self._ids), "".join(self._written), channel, tools)

    def _encode_pending(self) -> None:
        text = "".join(self._pending)
        if text:
            self._ids += self._tokenizer.encode(text)
        self._pending = []
