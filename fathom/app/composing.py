"""What one answer is made of, once there is a model: files, search, generation. Imports what imports torch.

The generation is the server's own (`fathom.server.generation`), so queue, limits and ledger are those of the API.
"""

import asyncio
import copy
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from fathom.app.answering import Answering
from fathom.app.citations import source_json, sources_of
from fathom.app.conversation import (
    ANSWER_TOKENS,
    begun,
    engine_request,
    fit_files,
    fitted,
    system_message,
    turns,
)
from fathom.app.messages import Message
from fathom.app.settings import COMPARED_PLAN
from fathom.app.titles import TOKENS, asked_for, cleaned
from fathom.costs.prices import PICODOLLARS, rate
from fathom.engine import Engine
from fathom.engine.request import EngineEvent, Finished, Request
from fathom.search.citations import stored_mark
from fathom.search.searching import Step
from fathom.server.errors import bad_request
from fathom.server.generation import Generation, failure
from fathom.server.searched import CitedAnswer
from fathom.server.searching import PASSAGE_TOKENS, prompt_of
from fathom.server.service import Service
from fathom.text import Answer, TextError, Thought
from fathom.text import Message as Turn

TITLE_SECONDS = 30.0


class Composer:
    """Writes the message of one run."""

    def __init__(self, run: Answering, engine: Engine) -> None:
        self._run, self._engine = run, engine
        self._thought_began: float | None = None
        self._stage = ""
        self._opening = ""  # what the answer begins with, by code

    async def compose(self) -> None:
        """The answer, from its question to the account of it. Raises ApiError."""
        run, message = self._run, self._run.message
        conversation = await self._conversation()
        asked = dataclasses.replace(run.asked, think=run.asked.think and self._engine.template.thinks)
        message.model, message.think = self._engine.model_name, asked.think
        request = await asyncio.to_thread(engine_request, self._engine, conversation, asked, run.person.id)
        cited = CitedAnswer(sources_of(message.sources), stored_mark, self._opening)
        with Generation(run.service, self._engine, [request], message.model) as generation:
            run.generates(generation)
            async for events in self._events(generation):
                self._take([shown for event in events for shown in cited.take(event)])

    async def _conversation(self) -> list[Turn]:
        """What the model is asked, with what the search found."""
        question = self._run.path[-1]
        opening = system_message(self._run.asked.system, self._run.memories)
        contents = await self._with_files()
        said = [*opening, *turns(self._run.path, lambda message: contents.get(message.id, message.content))]
        searches = self._run.asked.search and self._run.service.search is not None
        room = min(ANSWER_TOKENS + PASSAGE_TOKENS * searches, self._engine.max_tokens // 2)
        conversation, left_out = await asyncio.to_thread(fitted, self._engine, said, room)
        if left_out:
            text = f"The chat is longer than the model can read: its first {left_out} messages were left out"
            self._run.note("turns_left_out", text)
        if self._run.message.sources:  # goes on after a stop: from the same sources
            today = datetime.fromtimestamp(self._run.message.created).astimezone().date()
            sources = sources_of(self._run.message.sources)
            asked = prompt_of(self._engine, conversation[-1].content or "", sources, today)
            conversation[-1] = Turn("user", asked)
        elif searches:
            conversation = await self._searched(conversation, question)
        return [*conversation, *begun(self._run.message)]

    async def _with_files(self) -> dict[str, str]:
        """What questions with files say to the model, by message; how the newest one's were used is told and kept."""
        questions = [message for message in self._run.path if message.files]
        if not questions:
            return {}
        self._tell("files")
        contents, used = await asyncio.to_thread(
            fit_files,
            self._engine,
            self._run.library,
            questions,
            self._run.path[-1].content,
            self._run.asked.max_tokens,
        )
        question = self._run.path[-1]
        question.files = [{**file, "used": used.get(file["id"], file["used"])} for file in question.files]
        if question.files:
            await self._run.written(self._run.library.save, copy.copy(question))
            self._run.log.put("files", {"message": question.id, "files": question.files})
        return contents

    async def _searched(self, conversation: Sequence[Turn], question: Message) -> list[Turn]:
        assert self._run.service.search is not None
        self._tell("search")
        found = await self._run.service.search.find(
            self._engine, conversation, self._search_step, caller=self._run.person.searcher, question=question.content
        )
        self._run.message.queries = list(found.queries)
        self._run.message.sources = [source_json(number, one) for number, one in enumerate(found.sources, start=1)]
        self._run.message.notes += [dataclasses.asdict(note) for note in found.notes]
        self._opening = found.opening
        self._run.dirty = True
        self._run.log.put("sources", {"sources": self._run.message.sources, "notes": self._run.message.notes})
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
        self._run.dirty = True

    def _think(self, text: str) -> None:
        if self._thought_began is None:
            self._thought_began = time.monotonic() - (self._run.message.thought_seconds or 0.0)
            self._tell("thought")
        self._run.message.thought = (self._run.message.thought or "") + text
        self._run.message.thought_seconds = time.monotonic() - self._thought_began
        self._run.log.put("thought", {"text": text})

    def _say(self, text: str) -> None:
        if self._stage != "answer":
            self._end_thought()
            self._tell("answer")
        self._run.message.content += text
        self._run.log.put("answer", {"text": text})

    def _end_thought(self) -> None:
        if self._thought_began is not None:
            self._run.message.thought_seconds = time.monotonic() - self._thought_began
            self._thought_began = None
            self._run.log.put("thought_end", {"seconds": self._run.message.thought_seconds})

    def _account(self, finished: Finished) -> None:
        """Usage, times and price; of an answer that was continued the sums."""
        self._end_thought()
        before, usage = self._run.message.usage or {}, dataclasses.asdict(finished.usage)
        self._run.message.usage = {name: before.get(name, 0) + count for name, count in usage.items()}
        times = dataclasses.asdict(finished.timings)
        names = ("queue_seconds", "first_token_seconds", "total_seconds")
        self._run.message.timings = {name: times[name] for name in names}
        self._run.message.timings["tokens_per_second"] = times["decode_tokens_per_second"]
        self._run.message.cost = self._cost(self._run.message.usage)
        if finished.reason == "cancelled":
            self._run.interrupt()
        if finished.reason == "error":
            raise failure(finished)
        self._run.message.finish = finished.reason if finished.reason in ("stop", "length") else None

    def _cost(self, usage: dict[str, int]) -> dict[str, Any] | None:
        if self._run.service.accounts is None:
            return None
        hit, output = usage["cached_tokens"], usage["completion_tokens"]
        miss, now = usage["prompt_tokens"] - hit, datetime.now(UTC)
        plan = self._run.service.accounts.ledger.plan
        prices = {"usd": rate(plan, now), "compare_usd": rate(COMPARED_PLAN, now)}
        return {name: price.cost(hit, miss, output) / PICODOLLARS for name, price in prices.items()}

    def _tell(self, stage: str, **details: Any) -> None:
        self._stage = stage
        self._run.tell(stage, **details)


async def make_title(service: Service, engine: Engine, question: str, salt: str) -> str:
    """A title by the model, or nothing where what it says is none. Raises ApiError."""
    request = await asyncio.to_thread(_title_request, engine, question, salt)
    answer = ""
    with Generation(service, engine, [request], engine.model_name) as generation:
        async with asyncio.timeout(TITLE_SECONDS):
            async for events in generation:
                answer += "".join(event.text for _, event in events if isinstance(event, Answer))
    return cleaned(answer)


def _title_request(engine: Engine, question: str, salt: str) -> Request:
    try:
        prompt = engine.render([Turn("user", asked_for(question))], thinking=False)
    except TextError as error:
        raise bad_request(f"The model's template gives no title: {error}") from error
    return Request(prompt, engine.defaults.params(max_tokens=TOKENS, temperature=0.0), salt=salt)
