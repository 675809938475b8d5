"""The chats of one person. Every query names the person, so what is another's does not exist here."""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, delete, func, insert, or_, select, text, update
from sqlalchemy.sql import ColumnElement

from fathom.app.database import CHATS, FILES, MESSAGES, SHARES, Database
from fathom.app.excerpts import excerpt
from fathom.app.messages import Message, below, from_row, new_id
from fathom.search.terms import terms
from fathom.server.errors import ApiError, bad_request

MAX_FOUND = 50
_SUMMARY = [CHATS.c[name] for name in ("id", "title", "created", "updated", "pinned", "folder", "version")]
_INNER = [*_SUMMARY, CHATS.c.head, CHATS.c.titled]
_CURSOR = re.compile(r"(\d+(?:\.\d+)?):(t?[0-9a-f]{32})")


class NotFoundError(ApiError):
    """404: there is no such thing, or it is another person's."""

    def __init__(self, what: str) -> None:
        super().__init__(404, f"There is no such {what} (any more)", code="not_found")


@dataclass(slots=True)
class Chat:
    """A chat with its messages, oldest first."""

    summary: dict[str, Any]
    head: str | None
    titled: bool  # by a person
    messages: dict[str, Message]

    def message(self, identity: str) -> Message:
        """One of its messages. Raises NotFoundError."""
        try:
            return self.messages[identity]
        except KeyError:
            raise NotFoundError("message") from None

    def below(self, identity: str) -> set[str]:
        """A message and everything that hangs on it."""
        return below(self.messages, identity)


class Library:
    """Reads and writes what one person has. Blocking: call it from threads."""

    def __init__(self, database: Database, person: str) -> None:
        self.database = database
        self.person = person
        self.temporary = database.in_memory

    # -- chats ------------------------------------------------------------------------------------------------------

    def page(self, *, folder: str | None, before: str | None, limit: int) -> tuple[list[dict[str, Any]], str | None]:
        """Summaries, newest first after the pinned ones, and the cursor of the next page."""
        mine: list[ColumnElement[bool]] = [CHATS.c.person == self.person]
        if folder is not None:
            mine.append(CHATS.c.folder == folder)
        order = (CHATS.c.updated.desc(), CHATS.c.id.desc())
        with self.database.read() as connection:
            pinned: Sequence[RowMapping] = ()
            after: ColumnElement[bool] = CHATS.c.pinned.is_(False)
            if before is None:
                query = select(*_SUMMARY).where(*mine, CHATS.c.pinned).order_by(*order)
                pinned = connection.execute(query).mappings().all()
            else:
                updated, identity = _cursor(before)
                older = or_(CHATS.c.updated < updated, and_(CHATS.c.updated == updated, CHATS.c.id < identity))
                after = and_(after, older)
            query = select(*_SUMMARY).where(*mine, after).order_by(*order).limit(limit + 1)
            rows = connection.execute(query).mappings().all()
        more = len(rows) > limit
        last = rows[limit - 1] if more else None
        found = [self._summary(row) for row in (*pinned, *rows[:limit])]
        return found, f"{last['updated']!r}:{last['id']}" if last is not None else None

    def search(self, query: str) -> list[dict[str, Any]]:
        """Chats whose title or words hold all words of the query, the last of them perhaps only begun."""
        words = terms(query)[:16]
        if not words:
            return []
        with self.database.read() as connection:
            titles = [func.lower(CHATS.c.title).contains(word, autoescape=True) for word in words]
            titled = select(*_SUMMARY).where(CHATS.c.person == self.person, *titles).order_by(CHATS.c.updated.desc())
            found = {row["id"]: self._summary(row) for row in connection.execute(titled.limit(MAX_FOUND)).mappings()}
            for row in self._messages_with(connection, words):
                summary = found.setdefault(row["id"], self._summary(row))
                if summary["match"] is None and len(found) <= MAX_FOUND:
                    summary["match"] = {"message": row["message"], **excerpt(row["content"], words)}
        return list(found.values())[:MAX_FOUND]

    def _messages_with(self, connection: Connection, words: Sequence[str]) -> Sequence[RowMapping]:
        mine = (MESSAGES.c.person == self.person, CHATS.c.id == MESSAGES.c.chat, CHATS.c.person == self.person)
        query = select(*_SUMMARY, MESSAGES.c.id.label("message"), MESSAGES.c.content).where(*mine)
        if self.database.is_sqlite:
            # Words hold letters and digits only, so quoting them leaves no query syntax.
            match = " ".join(f'"{word}"' for word in words) + "*"
            query = query.where(text("app_history.rowid = app_messages.number AND app_history MATCH :match"))
            query = query.select_from(CHATS, MESSAGES, text("app_history")).order_by(text("app_history.rank"))
            rows = connection.execute(query.limit(4 * MAX_FOUND), {"match": match})
        else:
            held = [MESSAGES.c.content.icontains(word, autoescape=True) for word in words]
            rows = connection.execute(query.where(*held).order_by(MESSAGES.c.number.desc()).limit(4 * MAX_FOUND))
        return rows.mappings().all()

    def create(self, *, title: str = "", folder: str | None = None) -> dict[str, Any]:
        """A new chat's summary."""
        now = time.time()
        chat = new_id(temporary=self.temporary)
        row = {"id": chat, "person": self.person, "title": title, "titled": bool(title)}
        with self.database.write() as connection:
            connection.execute(insert(CHATS).values(**row, created=now, updated=now, folder=folder))
        return self.summary(chat)

    def summary(self, chat: str) -> dict[str, Any]:
        """What the list shows of a chat. Raises NotFoundError."""
        with self.database.read() as connection:
            return self._summary(self._row(connection, chat))

    def chat(self, chat: str) -> Chat:
        """A chat. Raises NotFoundError."""
        with self.database.read() as connection:
            row = self._row(connection, chat)
            return Chat(self._summary(row), row["head"], row["titled"], self._messages(connection, chat))

    def change(self, chat: str, values: Mapping[str, Any]) -> None:
        """Set title, pinned, folder or head. Raises NotFoundError."""
        with self.database.write() as connection:
            self._row(connection, chat)
            if values.get("head") is not None:
                self._message(connection, chat, values["head"])
            titled = {"titled": True} if "title" in values else {}
            self._touch(connection, chat, newer=False, **values, **titled)

    def entitle(self, chat: str, title: str) -> bool:
        """Give a title that the model made, unless a person gave one meanwhile; whether it was taken."""
        with self.database.write() as connection:
            untitled = (CHATS.c.id == chat, CHATS.c.person == self.person, CHATS.c.titled.is_(False))
            changed = connection.execute(
                update(CHATS).where(*untitled).values(title=title, version=CHATS.c.version + 1)
            )
        return changed.rowcount > 0

    def delete(self, chat: str) -> None:
        """Forget a chat and what was shared of it. Raises NotFoundError."""
        with self.database.write() as connection:
            row = self._row(connection, chat)
            self._forget_messages(connection, MESSAGES.c.chat == row["id"])
            connection.execute(delete(CHATS).where(CHATS.c.id == chat, CHATS.c.person == self.person))
            for table in (SHARES, FILES):
                connection.execute(delete(table).where(table.c.chat == chat, table.c.person == self.person))

    def delete_all(self) -> None:
        """Forget every chat, file and share."""
        with self.database.write() as connection:
            self._forget_messages(connection, MESSAGES.c.person == self.person)
            for table in (CHATS, FILES, SHARES):
                connection.execute(delete(table).where(table.c.person == self.person))

    def ids(self) -> list[str]:
        """Every chat's id, the oldest first."""
        with self.database.read() as connection:
            query = select(CHATS.c.id).where(CHATS.c.person == self.person).order_by(CHATS.c.created, CHATS.c.id)
            return list(connection.execute(query).scalars())

    def folders(self) -> list[dict[str, Any]]:
        """The folders in use and how many chats each holds."""
        count = func.count().label("chats")
        mine = (CHATS.c.person == self.person, CHATS.c.folder.is_not(None))
        query = select(CHATS.c.folder.label("name"), count).where(*mine).group_by(CHATS.c.folder)
        with self.database.read() as connection:
            return [dict(row) for row in connection.execute(query.order_by(CHATS.c.folder)).mappings()]

    def rename_folder(self, old: str, new: str | None) -> None:
        """Move the chats of one folder to another, or out of it."""
        with self.database.write() as connection:
            mine = (CHATS.c.person == self.person, CHATS.c.folder == old)
            connection.execute(update(CHATS).where(*mine).values(folder=new, version=CHATS.c.version + 1))

    def take(self, title: str, messages: Sequence[Message], *, head: str | None, times: tuple[float, float],
             folder: str | None, origin: str) -> bool:  # fmt: skip
        """Store a whole chat that was made elsewhere; False when `origin` was taken already."""
        chat = new_id(temporary=self.temporary)
        created, updated = times
        row = {"id": chat, "person": self.person, "title": title, "titled": True, "head": head, "folder": folder}
        with self.database.write() as connection:
            known = select(CHATS.c.id).where(CHATS.c.person == self.person, CHATS.c.origin == origin)
            if connection.execute(known).first() is not None:
                return False
            connection.execute(insert(CHATS).values(**row, created=created, updated=updated, origin=origin))
            for message in messages:
                self._insert(connection, chat, message)
        return True

    # -- messages ---------------------------------------------------------------------------------------------------

    def add(self, chat: str, messages: Iterable[Message]) -> None:
        """Append messages; the last of them becomes the head. Raises NotFoundError."""
        with self.database.write() as connection:
            self._row(connection, chat)
            head = None
            for message in messages:
                if message.parent is not None:
                    self._message(connection, chat, message.parent)
                self._insert(connection, chat, message)
                head = message.id
            self._touch(connection, chat, head=head)

    def restart(self, chat: str, message: Message) -> None:
        """Put an answer that goes on back to `running`. Raises ApiError 409 when it runs already, NotFoundError."""
        with self.database.write() as connection:
            if self._message(connection, chat, message.id).state == "running":
                raise ApiError(409, "This answer is on its way already", code="busy")
            self._write(connection, message)
            self._touch(connection, chat, head=message.id)

    def save(self, message: Message) -> bool:
        """Write a message as it now stands while it runs; False when it was deleted meanwhile."""
        with self.database.write() as connection:
            return self._write(connection, message)

    def finish(self, chat: str, message: Message) -> bool:
        """Write a message that runs no longer, and find it from now on; False when it was deleted meanwhile."""
        with self.database.write() as connection:
            if not self._write(connection, message):
                return False
            self._index(connection, message.id, message.content)
            self._touch(connection, chat)
            return True

    def change_message(self, chat: str, identity: str, values: Mapping[str, Any]) -> Message:
        """Rate an answer, or write it anew when it is at rest. Raises NotFoundError, ApiError 409."""
        with self.database.write() as connection:
            message = self._message(connection, chat, identity)
            if "content" in values:
                if message.state == "running":
                    raise ApiError(409, "This answer is on its way: stop it first", code="busy")
                if message.role != "assistant":
                    raise bad_request("A question is not changed but asked again: post it as a new answer's question")
                message.content = values["content"]
                message.citations = []
            if "rating" in values:
                message.rating = values["rating"]
            self._write(connection, message)
            self._index(connection, identity, message.content)
            self._touch(connection, chat)
        return message

    def delete_message(self, chat: str, identity: str) -> set[str]:
        """Forget a message and all below it; their ids. Raises NotFoundError."""
        with self.database.write() as connection:
            row = self._row(connection, chat)
            message = self._message(connection, chat, identity)
            gone = below(self._messages(connection, chat), identity)
            self._forget_messages(connection, MESSAGES.c.id.in_(gone))
            self._touch(connection, chat, head=message.parent if row["head"] in gone else row["head"])
        return gone

    # -- inside a transaction ---------------------------------------------------------------------------------------

    def _row(self, connection: Connection, chat: str) -> RowMapping:
        query = select(*_INNER).where(CHATS.c.id == chat, CHATS.c.person == self.person)
        row = connection.execute(query).mappings().first()
        if row is None:
            raise NotFoundError("chat")
        return row

    def _summary(self, row: RowMapping) -> dict[str, Any]:
        shown = {column.name: row[column.name] for column in _SUMMARY}
        return {**shown, "temporary": self.temporary, "run": None, "match": None}

    def _messages(self, connection: Connection, chat: str) -> dict[str, Message]:
        mine = (MESSAGES.c.chat == chat, MESSAGES.c.person == self.person)
        rows = connection.execute(select(MESSAGES).where(*mine).order_by(MESSAGES.c.number)).mappings()
        return {row["id"]: from_row(row) for row in rows}

    def _message(self, connection: Connection, chat: str, identity: str) -> Message:
        mine = (MESSAGES.c.id == identity, MESSAGES.c.chat == chat, MESSAGES.c.person == self.person)
        row = connection.execute(select(MESSAGES).where(*mine)).mappings().first()
        if row is None:
            raise NotFoundError("message")
        return from_row(row)

    def _insert(self, connection: Connection, chat: str, message: Message) -> None:
        connection.execute(insert(MESSAGES).values(**message.row(), person=self.person, chat=chat))
        if message.state != "running":
            self._index(connection, message.id, message.content)

    def _write(self, connection: Connection, message: Message) -> bool:
        mine = (MESSAGES.c.id == message.id, MESSAGES.c.person == self.person)
        return connection.execute(update(MESSAGES).where(*mine).values(**message.row())).rowcount > 0

    def _touch(self, connection: Connection, chat: str, *, newer: bool = True, **values: Any) -> None:
        """Note a change of the chat; `newer`: it is one of its words, so the chat goes to the top."""
        updated = {"updated": time.time()} if newer else {}
        mine = (CHATS.c.id == chat, CHATS.c.person == self.person)
        connection.execute(update(CHATS).where(*mine).values(version=CHATS.c.version + 1, **updated, **values))

    def _index(self, connection: Connection, identity: str, content: str) -> None:
        if self.database.is_sqlite:
            number = connection.execute(select(MESSAGES.c.number).where(MESSAGES.c.id == identity)).scalar_one()
            connection.execute(text("DELETE FROM app_history WHERE rowid = :number"), {"number": number})
            row = {"number": number, "text": " ".join(terms(content))}
            connection.execute(text("INSERT INTO app_history(rowid, text) VALUES(:number, :text)"), row)

    def _forget_messages(self, connection: Connection, which: ColumnElement[bool]) -> None:
        mine = and_(which, MESSAGES.c.person == self.person)
        if self.database.is_sqlite:
            numbers = select(MESSAGES.c.number).where(mine)
            for number in connection.execute(numbers).scalars().all():
                connection.execute(text("DELETE FROM app_history WHERE rowid = :number"), {"number": number})
        connection.execute(delete(MESSAGES).where(mine))


def _cursor(before: str) -> tuple[float, str]:
    match = _CURSOR.fullmatch(before)
    if match is None:
        raise bad_request("before must be the `next` of an earlier page", "before")
    return float(match[1]), match[2]
