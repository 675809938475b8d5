"""The prompts of a person's library and what the model is to remember of them: short texts, kept by kind."""

import time
from typing import Any, Literal

from sqlalchemy import delete, func, insert, select, update

from fathom.app.database import NOTES, Database
from fathom.app.library import NotFoundError
from fathom.app.messages import new_id
from fathom.server.errors import bad_request

Kind = Literal["prompt", "memory"]
MOST = {"prompt": 500, "memory": 100}


def every(database: Database, person: str, kind: Kind) -> list[dict[str, Any]]:
    """All of a kind, the newest first."""
    names = ("id", "title", "text", "updated") if kind == "prompt" else ("id", "text", "updated")
    columns = [NOTES.c[name] for name in names]
    query = select(*columns).where(NOTES.c.person == person, NOTES.c.kind == kind)
    with database.read() as connection:
        return [dict(row) for row in connection.execute(query.order_by(NOTES.c.updated.desc(), NOTES.c.id)).mappings()]


def add(database: Database, person: str, kind: Kind, *, text: str, title: str | None = None) -> dict[str, Any]:
    """A new one. Raises ApiError 400 when there are too many."""
    row = {"id": new_id(), "title": title, "text": text, "updated": time.time()}
    mine = (NOTES.c.person == person, NOTES.c.kind == kind)
    with database.write() as connection:
        if connection.execute(select(func.count()).where(*mine)).scalar_one() >= MOST[kind]:
            raise bad_request(f"There are {MOST[kind]} already: delete one first")
        connection.execute(insert(NOTES).values(**row, person=person, kind=kind))
    return row if kind == "prompt" else {name: row[name] for name in ("id", "text", "updated")}


def change(database: Database, person: str, kind: Kind, identity: str, values: dict[str, Any]) -> None:
    """Write one anew. Raises NotFoundError."""
    mine = (NOTES.c.id == identity, NOTES.c.person == person, NOTES.c.kind == kind)
    with database.write() as connection:
        if not connection.execute(update(NOTES).where(*mine).values(**values, updated=time.time())).rowcount:
            raise NotFoundError(kind)


def remove(database: Database, person: str, kind: Kind, identity: str) -> None:
    """Forget one. Raises NotFoundError."""
    mine = (NOTES.c.id == identity, NOTES.c.person == person, NOTES.c.kind == kind)
    with database.write() as connection:
        if not connection.execute(delete(NOTES).where(*mine)).rowcount:
            raise NotFoundError(kind)
