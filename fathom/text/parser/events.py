"""What a model's tokens turn into, and what turns them."""

from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Thought:
    """More of the thought."""

    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A call begins; its arguments follow. `index` counts the calls of one answer from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """More of a call's arguments: a piece of the JSON text, as the model writes it."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """A call is complete, or will not be completed."""

    index: int


Event = Thought | Answer | ToolCallStart | ToolCallArguments | ToolCallEnd


Place = Literal["thought", "answer", "call"]


class StreamParser(Protocol):
    """Turns token ids into events. A whole result is nothing but the streamed events joined."""

    thought_tokens: int  # tokens of the thought so far, its tags not counted
    entered_with: str  # the text that the last token brought behind a tag (only where tags are ordinary text)

    @property
    def place(self) -> Place:
        """Where the next token belongs."""

    def push(self, id: int) -> list[Event]:
        """The events that this token completes."""

    def finish(self) -> list[Event]:
        """What was held back, now that no more tokens come."""
