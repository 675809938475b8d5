"""The answers under way. They belong to the server and not to a connection: who watches may come and go."""

import asyncio
import contextlib
import fcntl
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from sqlalchemy import select, update

from fathom.app.answering import Answering
from fathom.app.database import MESSAGES, Database
from fathom.app.library import NotFoundError
from fathom.server.errors import ApiError

REMEMBERED_SECONDS = 300.0  # what a run said can be read again for so long after its end
MAX_PER_PERSON = 8


class Runs:
    """Every answer under way on this server, and those that have just ended."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self._answerings: dict[str, Answering] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, answering: Answering) -> None:
        """Let it run. Raises ApiError 429 when this person has too many under way."""
        self._answerings[answering.id] = answering
        task = asyncio.create_task(answering.run(), name=f"answer {answering.id}")
        self._tasks[answering.id] = task
        task.add_done_callback(lambda _: self._ended(answering.id))

    def check_room(self, person: str) -> None:
        """Raise ApiError 429 when this person has too many answers under way."""
        under_way = sum(one.person.id == person for one in self._under_way())
        if under_way >= MAX_PER_PERSON:
            message = f"{under_way} answers are on their way already: wait for one of them, or stop it"
            raise ApiError(429, message, code="busy", retry_after=5)

    def get(self, person: str, run: str) -> Answering:
        """One of a person's. Raises NotFoundError, also for another person's."""
        answering = self._answerings.get(run)
        if answering is None or answering.person.id != person:
            raise NotFoundError("answer under way")
        return answering

    def of_messages(self) -> "dict[str, Answering]":
        """The answer under way that a message is, by message."""
        return {one.message.id: one for one in self._under_way()}

    def of_chats(self) -> dict[str, str]:
        """A run of each chat that has one."""
        return {one.chat: one.id for one in self._under_way()}

    async def stop(self, *, chat: str | None = None, messages: Iterable[str] = (), person: str | None = None) -> None:
        """Stop what writes a chat, or these messages, or all of a person's, and wait until it is stored."""
        gone = set(messages)
        chosen = [
            one for one in self._under_way() if one.chat == chat or one.message.id in gone or one.person.id == person
        ]
        for answering in chosen:
            answering.stop()
        await asyncio.gather(*(one.finished.wait() for one in chosen))

    async def close(self) -> None:
        """The server goes: store what came, as interrupted."""
        for answering in list(self._under_way()):
            answering.interrupt()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _under_way(self) -> list[Answering]:
        return [one for one in self._answerings.values() if not one.finished.is_set()]

    def _ended(self, run: str) -> None:
        del self._tasks[run]
        with contextlib.suppress(RuntimeError):  # the loop is closed
            asyncio.get_running_loop().call_later(REMEMBERED_SECONDS, self._answerings.pop, run, None)


class Owner:
    """A name for this server that others can tell to be dead: a lock that the system lets go with the process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.name = secrets.token_hex(8)
        self._file = self._locked(folder / self.name)

    def _locked(self, path: Path) -> TextIO:
        file = path.open("w")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file

    def is_dead(self, name: str) -> bool:
        """Whether the server of this name runs no longer. Its lock is taken away."""
        path = self._folder / Path(name).name
        if not path.exists():
            return True
        try:
            self._locked(path).close()
        except BlockingIOError:
            return False
        path.unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """Leave."""
        (self._folder / self.name).unlink(missing_ok=True)
        self._file.close()


def mark_interrupted(database: Database, owner: Owner) -> int:
    """Mark the answers that a server left unfinished when it died; those of a living one are let alone."""
    with database.write() as connection:
        running = MESSAGES.c.state == "running"
        owners = connection.execute(select(MESSAGES.c.owner).where(running).distinct()).scalars().all()
        dead = [name for name in owners if name is None or owner.is_dead(name)]
        which = (
            MESSAGES.c.owner.in_(dead) if None not in dead else MESSAGES.c.owner.in_(dead) | MESSAGES.c.owner.is_(None)
        )
        changed = connection.execute(update(MESSAGES).where(running, which).values(state="interrupted"))
    return changed.rowcount
