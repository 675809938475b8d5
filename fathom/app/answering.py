"""The life of one answer under way: it is told to whoever watches, stored while it grows, stopped, and ended.

What it says is made in `composing.py`.
"""

import asyncio
import contextlib
import copy
import logging
import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from fathom.app.citations import marked
from fathom.app.library import Library
from fathom.app.log import EventLog
from fathom.app.messages import Message
from fathom.app.people import Person
from fathom.app.settings import Asked
from fathom.server.ability import size_of
from fathom.server.accounts.accounts import CALLER
from fathom.server.errors import ApiError
from fathom.server.service import Service

if TYPE_CHECKING:
    from fathom.engine import Engine
    from fathom.server.generation import Generation

log = logging.getLogger("fathom.app")

SAVE_SECONDS = 0.3
LOADING_SECONDS = 600.0


class Answering:
    """One run: writes `message` while it grows, tells `log`, ends in one of the states of a message."""

    def __init__(
        self,
        service: Service,
        library: Library,
        person: Person,
        chat: str,
        path: Sequence[Message],
        message: Message,
        asked: Asked,
        *,
        memories: Sequence[str] = (),
        titled: bool = True,
    ) -> None:
        """`path` is the branch that ends with the question; `titled`: the chat needs no title from the model."""
        self.id = secrets.token_hex(16)
        self.person, self.chat, self.message = person, chat, message
        self.log = EventLog()
        self.finished = asyncio.Event()  # the message is stored as it stays
        self.service, self.library, self.asked = service, library, asked
        self.path, self.memories, self._titled = path, memories, titled
        self._generation: Generation | None = None
        self._work: asyncio.Task[None] | None = None
        self._over = asyncio.Event()  # nothing more comes
        self._ending: Literal["stopped", "interrupted"] | None = None
        self.dirty = False
        self._told: dict[str, Any] = {}

    # -- from outside -----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """The person wants no more of it."""
        self._end("stopped")

    def interrupt(self) -> None:
        """The server goes."""
        self._end("interrupted")

    def answer_now(self) -> None:
        """End the thought; the answer follows."""
        if self._generation is not None:
            self._generation.answer_now()

    def _end(self, how: Literal["stopped", "interrupted"]) -> None:
        self._ending = self._ending or how
        if self._generation is not None:
            self._generation.cancel()  # its Finished still comes, with the usage
        elif self._work is not None:
            self._work.cancel()

    # -- the run ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Answer; never raises."""
        CALLER.set(self.person.caller)
        self._work = asyncio.create_task(self._answer())
        saving = asyncio.create_task(self._keep_saving())
        try:
            await self._work
            self.message.state = self._ending or "complete"
            self._refuse_empty()
        except ApiError as error:
            self._fail(error.code, error.message)
        except asyncio.CancelledError:
            self.message.state = self._ending or "interrupted"
        except Exception:
            log.exception("an answer failed")
            self._fail("server_error", "The server failed on this answer; its log has the details")
        self._over.set()
        await saving  # a save that is under way must not come after the last one
        await self._store()
        if self.message.state == "complete" and not self._titled:
            await self._name()
        self.log.put("end", {})

    async def _answer(self) -> None:
        engine = await self._engine()
        from fathom.app.composing import Composer  # imports torch, which the engine has by now

        try:
            await Composer(self, engine).compose()
        finally:
            self._generation = None

    def generates(self, generation: "Generation") -> None:
        """The generation under way, so that it can be stopped."""
        self._generation = generation
        if self._ending is not None:
            generation.cancel()

    async def _engine(self) -> "Engine":
        """The model, waited for while it loads."""
        deadline = time.monotonic() + LOADING_SECONDS
        while self.service.state == "loading" and time.monotonic() < deadline:
            what, fraction = self.service.stage
            self.tell("loading", text=what, fraction=fraction)
            with contextlib.suppress(ApiError):
                await self.service.ready(0.5)
        return await self.service.ready(0)

    # -- what is told and kept --------------------------------------------------------------------------------------

    def tell(self, stage: str, **details: Any) -> None:
        """How far it is, once for each change."""
        said = {"stage": stage, **{name: value for name, value in details.items() if value not in (None, 0, [])}}
        if said != self._told:
            self._told = said
            self.log.put("progress", said)

    def note(self, kind: str, text: str) -> None:
        """What the reader should know about how this answer was made."""
        self.message.notes.append({"kind": kind, "subject": "", "text": text})
        self.log.put("sources", {"sources": self.message.sources, "notes": self.message.notes})

    def _fail(self, code: str, message: str) -> None:
        draining = self.service.state == "draining"
        self.message.state = self._ending or ("interrupted" if draining else "failed")
        if self.message.state == "failed":
            self.message.error = {"code": code, "message": message}

    def _refuse_empty(self) -> None:
        if self.message.state == "complete" and not self.message.content.strip():
            self._fail("empty", "The model gave no answer. Ask again, or in other words")

    async def _keep_saving(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), SAVE_SECONDS)
            if self.dirty and not self._over.is_set():
                self.dirty = False
                kept = await self.written(self.library.save, copy.copy(self.message))
                if not kept:
                    self.stop()

    async def _store(self) -> None:
        """The last write: what it says now is what stays."""
        self.message.owner = None
        marked(self.message)
        await self.written(self.library.finish, self.chat, copy.copy(self.message))
        self.finished.set()
        self.log.put("done", {"message": self.message.json()})

    async def written(self, write: Any, *arguments: Any) -> bool:
        """Whether it is stored. A full disk must not kill the answer that is being read."""
        try:
            stored: bool = await asyncio.to_thread(write, *arguments)
        except Exception:
            log.exception("an answer could not be stored")
            return True
        return stored

    async def _name(self) -> None:
        """A title by the model, for a chat that has only its question's words."""
        try:
            engine = await self.service.ready(0)
            if size_of(engine) == "small":
                return  # it answers the question instead of naming it (docs/log.md)
            from fathom.app.composing import make_title

            title = await make_title(self.service, engine, self.path[0].content, self.person.id)
            taken = bool(title) and await asyncio.to_thread(self.library.entitle, self.chat, title)
            if taken:
                self.log.put("title", {"title": title})
        except ApiError as error:
            log.info("no title: %s", error)  # its question's words remain
        except Exception:
            log.exception("a title failed")
