"""One answer, from the question to the last stored word: files, search, generation, title. Every step is told.

The generation is the server's own (`fathom.server.generation`), so queue, limits and ledger are those of the API.
"""

import asyncio
import contextlib
import copy
import dataclasses
import logging
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from fathom.app.citations import marked, source_json, sources_of
from fathom.app.conversation import ANSWER_TOKENS, Asked, begun, engine_request, fitted, system_message, turns
from fathom.app.library import Library
from fathom.app.log import EventLog
from fathom.app.messages import Message
from fathom.app.people import Person
from fathom.app.titles import make_title
from fathom.costs.prices import PICODOLLARS, rate
from fathom.engine import Engine
from fathom.engine.request import EngineEvent, Finished
from fathom.search.citations import stored_mark
from fathom.search.prompts import search_prompt
from fathom.search.searching import Step
from fathom.server.accounts.accounts import CALLER
from fathom.server.errors import ApiError
from fathom.server.generation import Generation
from fathom.server.searched import CitedAnswer
from fathom.server.searching import PASSAGE_TOKENS
from fathom.server.service import Service
from fathom.text import Answer, Thought
from fathom.text import Message as Turn

log = logging.getLogger("fathom.app")

SAVE_SECONDS = 0.3
LOADING_SECONDS = 600.0
COMPARED_PLAN = "gpt-4-0613"


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
        self._service, self._library, self._asked = service, library, asked
        self._path, self._memories, self._titled = path, memories, titled
        self._generation: Generation | None = None
        self._work: asyncio.Task[None] | None = None
        self._over = asyncio.Event()  # nothing more comes
        self._ending: Literal["stopped", "interrupted"] | None = None
        self._dirty = False
        self._thought_began: float | None = None
        self._stage = ""
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
        conversation = await self._conversation(engine)
        asked = dataclasses.replace(self._asked, think=self._asked.think and engine.template.thinks)
        self.message.model, self.message.think = engine.model_name, asked.think
        request = await asyncio.to_thread(engine_request, engine, conversation, asked, self.person.id)
        cited = CitedAnswer(sources_of(self.message.sources), stored_mark)
        with Generation(self._service, engine, [request], engine.model_name) as generation:
            self._generation = generation
            if self._ending is not None:
                generation.cancel()
            async for events in self._events(generation):
                self._take([shown for event in events for shown in cited.take(event)])
        self._generation = None

    async def _engine(self) -> Engine:
        """The model, waited for while it loads."""
        deadline = time.monotonic() + LOADING_SECONDS
        while self._service.state == "loading" and time.monotonic() < deadline:
            what, fraction = self._service.stage
            self._tell("loading", text=what, fraction=fraction)
            with contextlib.suppress(ApiError):
                await self._service.ready(0.5)
        return await self._service.ready(0)

    async def _conversation(self, engine: Engine) -> list[Turn]:
        """What the model is asked, with what the search found."""
        question = self._path[-1]
        opening = system_message(self._asked.system, self._memories)
        said = [*opening, *turns(self._path, lambda message: message.content)]
        searches = self._asked.search and self._service.search is not None
        room = min(ANSWER_TOKENS + PASSAGE_TOKENS * searches, engine.max_tokens // 2)
        conversation, left_out = await asyncio.to_thread(fitted, engine, said, room)
        if left_out:
            text = f"The chat is longer than the model can read: its first {left_out} messages were left out"
            self._note("turns_left_out", text)
        if self.message.sources:  # goes on after a stop: from the same sources
            today = datetime.fromtimestamp(self.message.created).astimezone().date()
            asked = search_prompt(conversation[-1].content or "", sources_of(self.message.sources), today)
            conversation[-1] = Turn("user", asked)
        elif searches:
            conversation = await self._searched(engine, conversation, question)
        return [*conversation, *begun(self.message)]

    async def _searched(self, engine: Engine, conversation: Sequence[Turn], question: Message) -> list[Turn]:
        assert self._service.search is not None
        self._tell("search")
        found = await self._service.search.find(
            engine, conversation, self._search_step, caller=self.person.searcher, question=question.content
        )
        self.message.queries = list(found.queries)
        self.message.sources = [source_json(number, one) for number, one in enumerate(found.sources, start=1)]
        self.message.notes += [dataclasses.asdict(note) for note in found.notes]
        self._dirty = True
        self.log.put("sources", {"sources": self.message.sources, "notes": self.message.notes})
        return list(found.messages)

    def _search_step(self, step: Step) -> None:
        self._tell("search", text=str(step), step=step.stage, pages=step.pages, engines=list(step.engines))

    async def _events(self, generation: Generation) -> AsyncIterator[list[EngineEvent]]:
        """The events of the one choice; until the first of them, the place in the queue is told."""
        coming = asyncio.ensure_future(anext(generation))
        try:
            while not (await asyncio.wait({coming}, timeout=0.25))[0]:
                place = generation.position()
                self._tell("queue" if place else "prompt", place=place or None)
            yield [event for _, event in coming.result()]
        finally:
            coming.cancel()
        async for events in generation:
            yield [event for _, event in events]

    def _take(self, events: Sequence[object]) -> None:
        for event in events:
            match event:
                case Thought(text):
                    self._think(text)
                case Answer(text):
                    self._say(text)
                case Finished():
                    self._account(event)
        self._dirty = True

    def _think(self, text: str) -> None:
        if self._thought_began is None:
            self._thought_began = time.monotonic() - (self.message.thought_seconds or 0.0)
            self._tell("thought")
        self.message.thought = (self.message.thought or "") + text
        self.message.thought_seconds = time.monotonic() - self._thought_began
        self.log.put("thought", {"text": text})

    def _say(self, text: str) -> None:
        if self._stage != "answer":
            self._end_thought()
            self._tell("answer")
        self.message.content += text
        self.log.put("answer", {"text": text})

    def _end_thought(self) -> None:
        if self._thought_began is not None:
            self.message.thought_seconds = time.monotonic() - self._thought_began
            self._thought_began = None
            self.log.put("thought_end", {"seconds": self.message.thought_seconds})

    def _account(self, finished: Finished) -> None:
        """Usage, times and price; of an answer that was continued the sums."""
        self._end_thought()
        before, usage = self.message.usage or {}, dataclasses.asdict(finished.usage)
        self.message.usage = {name: before.get(name, 0) + count for name, count in usage.items()}
        times = dataclasses.asdict(finished.timings)
        names = ("queue_seconds", "first_token_seconds", "total_seconds")
        self.message.timings = {name: times[name] for name in names}
        self.message.timings["tokens_per_second"] = times["decode_tokens_per_second"]
        self.message.cost = self._cost(self.message.usage)
        if finished.reason == "cancelled":
            self._ending = self._ending or "interrupted"
        if finished.reason == "error":
            raise ApiError(500, "The engine failed on this answer; the server's log has the details")
        self.message.finish = finished.reason if finished.reason in ("stop", "length") else None

    def _cost(self, usage: dict[str, int]) -> dict[str, Any] | None:
        if self._service.accounts is None:
            return None
        hit, output = usage["cached_tokens"], usage["completion_tokens"]
        miss, now = usage["prompt_tokens"] - hit, datetime.now(UTC)
        plan = self._service.accounts.ledger.plan
        prices = {"usd": rate(plan, now), "compare_usd": rate(COMPARED_PLAN, now)}
        return {name: price.cost(hit, miss, output) / PICODOLLARS for name, price in prices.items()}

    # -- what is told and kept --------------------------------------------------------------------------------------

    def _tell(self, stage: str, **details: Any) -> None:
        said = {"stage": stage, **{name: value for name, value in details.items() if value not in (None, 0, [])}}
        self._stage = stage
        if said != self._told:
            self._told = said
            self.log.put("progress", said)

    def _note(self, kind: str, text: str) -> None:
        self.message.notes.append({"kind": kind, "subject": "", "text": text})
        self.log.put("sources", {"sources": self.message.sources, "notes": self.message.notes})

    def _fail(self, code: str, message: str) -> None:
        draining = self._service.state == "draining"
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
            if self._dirty and not self._over.is_set():
                self._dirty = False
                kept = await self._written(self._library.save, copy.copy(self.message))
                if not kept:
                    self.stop()

    async def _store(self) -> None:
        """The last write: what it says now is what stays."""
        self._end_thought()
        self.message.owner = None
        marked(self.message)
        await self._written(self._library.finish, self.chat, copy.copy(self.message))
        self.finished.set()
        self.log.put("done", {"message": self.message.json()})

    async def _written(self, write: Any, *arguments: Any) -> bool:
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
            engine = await self._service.ready(0)
            title = await make_title(self._service, engine, self._path[0].content, self.person.id)
            taken = bool(title) and await asyncio.to_thread(self._library.entitle, self.chat, title)
            if taken:
                self.log.put("title", {"title": title})
        except ApiError as error:
            log.info("no title: %s", error)  # its question's words remain
        except Exception:
            log.exception("a title failed")
