"""One message of a chat as it is stored and as the page gets it: the fields are those of docs/app.md."""

import dataclasses
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import RowMapping

State = Literal["running", "complete", "stopped", "interrupted", "failed"]

# What stands in columns of its own; everything else is in the column `details`.
_COLUMNS = ("id", "parent", "role", "created", "content", "thought", "state", "owner", "rating")


@dataclass(slots=True)
class Message:
    """A question or an answer. `owner` names the server whose run writes it; `run` is that run while it goes on."""

    id: str
    parent: str | None
    role: Literal["user", "assistant"]
    created: float
    content: str = ""
    thought: str | None = None
    state: State = "complete"
    owner: str | None = None
    rating: int | None = None
    thought_seconds: float | None = None
    error: dict[str, str] | None = None
    run: str | None = None
    model: str | None = None
    think: bool | None = None
    search: bool | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    queries: list[str] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)
    citations: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    usage: dict[str, int] | None = None
    timings: dict[str, float | None] | None = None
    cost: dict[str, float] | None = None
    finish: str | None = None

    def json(self) -> dict[str, Any]:
        """As the page gets it."""
        fields = dataclasses.asdict(self)
        del fields["owner"]
        return fields

    def row(self) -> dict[str, Any]:
        """As it is stored."""
        fields = dataclasses.asdict(self)
        del fields["run"]  # known by the server that runs it, of no use after it
        columns = {name: fields.pop(name) for name in _COLUMNS}
        return {**columns, "details": {name: value for name, value in fields.items() if value not in (None, [], {})}}


def from_row(row: RowMapping) -> Message:
    """A stored message; details that a later version wrote are left out."""
    known = {one.name for one in dataclasses.fields(Message)} - {"run"}
    details = {name: value for name, value in row["details"].items() if name in known}
    return Message(**{name: row[name] for name in _COLUMNS}, **details)


def new_id(*, temporary: bool = False) -> str:
    """128 bits that nobody can guess; what lives in memory only begins with a t."""
    return ("t" if temporary else "") + secrets.token_hex(16)


def is_temporary(identity: str) -> bool:
    """Whether this names something that lives in memory only."""
    return identity.startswith("t")


def path_to(messages: Mapping[str, Message], leaf: str | None) -> list[Message]:
    """The branch that ends at `leaf`, root first."""
    path: list[Message] = []
    while leaf is not None and leaf in messages and len(path) < len(messages):
        path.append(messages[leaf])
        leaf = messages[leaf].parent
    return path[::-1]


def below(messages: Mapping[str, Message], root: str) -> set[str]:
    """The message and everything that hangs on it; `messages` in the order in which they were made."""
    found = {root}
    for message in messages.values():
        if message.parent in found:
            found.add(message.id)
    return found
