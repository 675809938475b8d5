"""Files that a person sends along: what they say is kept (not their bytes), and goes into the question.

A file that fits goes in whole, in the form that DeepSeek publishes for its app (README of DeepSeek-R1, "Official
Prompts"); of a longer one the passages that fit the question, and both model and reader are told.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from fathom.app.database import FILES, Database
from fathom.app.library import NotFoundError
from fathom.app.messages import new_id
from fathom.search.errors import ExtractionError
from fathom.search.extraction import Extractor
from fathom.search.extracts import Extract, clean_title
from fathom.search.files import MAX_FILE_BYTES, kind_of
from fathom.search.index import Document, Index, spans
from fathom.server.errors import ApiError

MAX_NAME = 120
MAX_KEPT_CHARACTERS = 200 * 10**6  # of all files of one person
UNSENT_SECONDS = 86400.0
_CHIP = [FILES.c[name] for name in ("id", "name", "kind", "bytes", "truncated")]
_GAP = "\n[…]\n"
_PARTS = "(These are the passages of a longer file that fit the question best.)\n"

Count = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class File:
    """What a file says."""

    id: str
    name: str
    text: str
    sections: Sequence[tuple[str, int, int]]


def read(extractor: Extractor, name: str, data: bytes) -> tuple[str, str, Extract]:
    """Name, kind and text of a file. Raises ApiError with what a person can do about it. Blocking."""
    shown = clean_title(name.replace("\\", "/").rpartition("/")[2])[-MAX_NAME:] or "file"
    if len(data) > MAX_FILE_BYTES:
        most = MAX_FILE_BYTES // 2**20
        raise ApiError(
            413, f"{shown} is larger than {most} MiB: send a smaller file, or a part of it", code="too_large"
        )
    try:
        return shown, kind_of(shown, data), extractor.extract_file(shown, data)
    except ExtractionError as error:
        raise ApiError(422, f"{shown} cannot be read: {error}", code="unreadable") from error


def keep(database: Database, person: str, name: str, kind: str, size: int, extract: Extract) -> dict[str, Any]:
    """Store what a file says; its chip. Raises ApiError 413 when a person has too much."""
    now = time.time()
    row = {"id": new_id(temporary=database.in_memory), "name": name, "kind": kind, "bytes": size}
    sections = [[one.title, one.first, one.last] for one in extract.sections]
    with database.write() as connection:
        unsent = (FILES.c.chat.is_(None), FILES.c.created < now - UNSENT_SECONDS)
        connection.execute(delete(FILES).where(*unsent))
        kept = func.coalesce(func.sum(func.length(FILES.c.text)), 0)
        if connection.execute(select(kept).where(FILES.c.person == person)).scalar_one() > MAX_KEPT_CHARACTERS:
            raise ApiError(413, "Your files fill their room: delete chats with files first", code="too_large")
        values = {**row, "text": extract.text, "sections": sections, "truncated": extract.truncated}
        connection.execute(insert(FILES).values(**values, person=person, created=now))
    return {**row, "truncated": extract.truncated, "characters": len(extract.text)}


def chip(database: Database, person: str, identity: str) -> dict[str, Any]:
    """A file's chip with its text. Raises NotFoundError."""
    query = select(*_CHIP, FILES.c.text).where(FILES.c.id == identity, FILES.c.person == person)
    with database.read() as connection:
        row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFoundError("file")
    return {**row, "characters": len(row["text"])}


def forget(database: Database, person: str, identity: str) -> None:
    """Delete a file that was not sent yet, or its text. Raises NotFoundError."""
    with database.write() as connection:
        mine = (FILES.c.id == identity, FILES.c.person == person)
        if not connection.execute(delete(FILES).where(*mine)).rowcount:
            raise NotFoundError("file")


def attach(database: Database, person: str, chat: str, identities: Sequence[str]) -> list[dict[str, Any]]:
    """The chips of files that are sent in this chat. One that was sent in another is copied. Raises NotFoundError."""
    with database.write() as connection:
        return [_attached(connection, person, chat, identity) for identity in dict.fromkeys(identities)]


def _attached(connection: Connection, person: str, chat: str, identity: str) -> dict[str, Any]:
    mine = (FILES.c.id == identity, FILES.c.person == person)
    row = connection.execute(select(FILES).where(*mine)).mappings().first()
    if row is None:
        raise NotFoundError("file")
    file = dict(row)
    if file["chat"] is None:
        connection.execute(update(FILES).where(*mine).values(chat=chat))
    elif file["chat"] != chat:
        file |= {"id": new_id(temporary=identity.startswith("t")), "chat": chat}
        connection.execute(insert(FILES).values(**file))
    shown = {column.name: file[column.name] for column in _CHIP}
    return {**shown, "characters": len(file["text"]), "used": None}


def texts(database: Database, person: str, identities: Sequence[str]) -> dict[str, File]:
    """What files say, by id; one that was deleted meanwhile is left out."""
    query = select(FILES).where(FILES.c.id.in_(identities), FILES.c.person == person)
    with database.read() as connection:
        rows = connection.execute(query).mappings().all()
    return {
        row["id"]: File(row["id"], row["name"], row["text"], [tuple(one) for one in row["sections"]]) for row in rows
    }


def file_prompt(files: Sequence[tuple[str, str]], question: str) -> str:
    """A question with (name, content) of its files before it."""
    blocks = [f"[file name]: {name}\n[file content begin]\n{content}\n[file content end]\n" for name, content in files]
    return "".join(blocks) + question


def fit(files: Mapping[str, File], question: str, budget: int, count: Count) -> dict[str, tuple[str, str]]:
    """(content, "whole" or "passages") of each file, by id, within `budget` tokens in all.

    Files that are short go in whole first; what is left is shared by the long ones.
    """
    sizes = {identity: count_long(file.text, count) for identity, file in files.items()}
    fitted: dict[str, tuple[str, str]] = {}
    waiting = sorted(files, key=sizes.__getitem__)
    while waiting:
        identity = waiting.pop(0)
        share = budget // (len(waiting) + 1)
        if sizes[identity] <= share:
            fitted[identity] = (files[identity].text, "whole")
            budget -= sizes[identity]
        else:
            content = _PARTS + passages(files[identity], question, share - count(_PARTS), count)
            fitted[identity] = (content, "passages")
            budget -= count(content)
    return fitted


def passages(file: File, question: str, budget: int, count: Count) -> str:
    """The parts of a file that fit a question best, in the file's order; where none does, from all over it."""
    parts = spans(file.text)
    chosen: list[int] = []
    for place in [*_ranked(file, parts, question), *_spread(len(parts))]:
        needed = count(_labelled(file, parts[place])) + count(_GAP)
        if place in chosen:
            continue
        if needed > budget:
            break
        chosen.append(place)
        budget -= needed
    return _GAP.join(_labelled(file, parts[place]) for place in sorted(chosen))


def _ranked(file: File, parts: Sequence[tuple[int, int]], question: str) -> list[int]:
    with Index(None) as index:
        for place, (first, last) in enumerate(parts):
            index.add(Document(str(place), "", file.text[first:last]))
        return [int(found.url) for found in index.search(question, len(parts))]


def _spread(parts: int) -> list[int]:
    """The beginning, the end, the middle, then between them: any number of them from the left covers the file."""
    order, seen, steps = [0, parts - 1], {0, parts - 1}, 2
    while len(seen) < parts:
        for step in range(1, steps, 2):
            place = step * (parts - 1) // steps
            if place not in seen:
                seen.add(place)
                order.append(place)
        steps *= 2
    return order


def _labelled(file: File, part: tuple[int, int]) -> str:
    first, last = part
    section = next((title for title, begins, ends in file.sections if begins <= first < ends), "")
    return (f"({section}) " if section else "") + file.text[first:last].strip()


def count_long(text: str, count: Count) -> int:
    """Tokens of a text; those of a very long one are reckoned from its beginning."""
    sample = text[:200_000]
    return count(sample) if len(sample) == len(text) else count(sample) * len(text) // len(sample)
