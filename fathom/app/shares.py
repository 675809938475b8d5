"""What a person shows to others: a branch as it was, behind a link that cannot be guessed and can be taken back."""

import secrets
import time
from typing import Any

from sqlalchemy import delete, insert, select

from fathom.app.database import SHARES, Database
from fathom.app.library import Chat, NotFoundError
from fathom.app.messages import Message, path_to

# Of an answer's numbers and of a person's files nothing is shown but the names.
_HIDDEN = ("run", "rating", "settings", "usage", "timings", "cost", "error")


def share(database: Database, person: str, chat: Chat, *, head: str | None, thoughts: bool) -> dict[str, Any]:
    """Freeze the branch that ends at `head` (None: the visible one). Raises NotFoundError."""
    path = path_to(chat.messages, chat.message(head).id if head is not None else chat.head)
    if not path:
        raise NotFoundError("message to share")
    row = {"token": secrets.token_urlsafe(24), "chat": chat.summary["id"], "title": chat.summary["title"]}
    value = [_shown(message, thoughts=thoughts) for message in path]
    created = time.time()
    with database.write() as connection:
        connection.execute(insert(SHARES).values(**row, person=person, created=created, value=value))
    return _entry({**row, "created": created})


def every(database: Database, person: str) -> list[dict[str, Any]]:
    """What this person shares, the newest first."""
    columns = [SHARES.c[name] for name in ("token", "chat", "title", "created")]
    with database.read() as connection:
        query = select(*columns).where(SHARES.c.person == person).order_by(SHARES.c.created.desc())
        return [_entry(dict(row)) for row in connection.execute(query).mappings()]


def revoke(database: Database, person: str, token: str) -> None:
    """The link leads nowhere from now on. Raises NotFoundError."""
    with database.write() as connection:
        mine = (SHARES.c.token == token, SHARES.c.person == person)
        if not connection.execute(delete(SHARES).where(*mine)).rowcount:
            raise NotFoundError("shared chat")


def shown(database: Database, token: str) -> dict[str, Any]:
    """What whoever has the link sees. Raises NotFoundError."""
    with database.read() as connection:
        row = connection.execute(select(SHARES).where(SHARES.c.token == token)).mappings().first()
    if row is None:
        raise NotFoundError("shared chat")
    return {"title": row["title"], "created": row["created"], "messages": row["value"]}


def _entry(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "path": f"/share/{row['token']}"}


def _shown(message: Message, *, thoughts: bool) -> dict[str, Any]:
    fields = {name: value for name, value in message.json().items() if name not in _HIDDEN}
    fields["files"] = [{"name": file["name"], "kind": file["kind"]} for file in message.files]
    if not thoughts:
        fields["thought"] = fields["thought_seconds"] = None
    # What was found in the own documents was for their owner; the answer keeps its numbers.
    fields["sources"] = [
        source if source["passage"] is None else {**source, "url": "", "text": None, "snippet": "", "passage": None}
        for source in message.sources
    ]
    if fields["state"] == "running":
        fields["state"] = "interrupted"
    return fields
