"""An answer generated after a search: its events are the search's, then the engine's with citations resolved."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from fathom.engine import Engine
from fathom.engine.request import EngineEvent, Finished, Request
from fathom.search.citations import Citation, CitationFilter, Mark, reader_mark, unsupported
from fathom.search.engines import Source
from fathom.search.searching import Progress, Step
from fathom.server.accounts.accounts import CALLER
from fathom.server.errors import ApiError, bad_request
from fathom.server.generation import Generation
from fathom.server.searching import Found, last_user_turn
from fathom.server.service import Service
from fathom.text import Answer, Message


@dataclass(frozen=True, slots=True)
class Cited:
    """Comes before Finished: the marks `[M]` of the whole answer, by place in it, for `sources[one.source]`.

    `cited` are the places of the sources by their numbers: [M] is `cited[M - 1]`. `unsupported` are citations whose
    source shares no content word with their sentence. `dropped` counts marks that named no source.
    """

    citations: tuple[Citation, ...]
    cited: tuple[int, ...]
    unsupported: tuple[Citation, ...]
    dropped: int


SearchEvent = Step | Found | Cited
ServerEvent = EngineEvent | SearchEvent


class CitedAnswer:
    """The events of one answer given from sources, with `[citation:N]` rewritten (to `[M]`) in the answer only."""

    def __init__(self, sources: Sequence[Source], mark: Mark = reader_mark, opening: str = "") -> None:
        """`opening` (of `Found`) is put before the first text of the answer, or stands for it."""
        self._sources = sources
        self._opening = opening
        self._filter = CitationFilter(len(sources), mark)
        self._text = ""

    def take(self, event: EngineEvent) -> list[EngineEvent | Cited]:
        """What to send on for an event of the engine."""
        if isinstance(event, Answer):
            return self._show(self._filter.push(self._opened() + event.text))
        if isinstance(event, Finished):
            return [
                *self._show(self._filter.push(self._opened())),
                *self._show(self._filter.finish()),
                self._cited(),
                event,
            ]
        return [event]

    def _opened(self) -> str:
        opening, self._opening = self._opening, ""
        return opening

    def _show(self, text: str) -> list[EngineEvent | Cited]:
        self._text += text
        return [Answer(text)] if text else []

    def _cited(self) -> Cited:
        marks = self._filter.citations
        doubtful = unsupported(self._text, marks, self._sources)
        return Cited(tuple(marks), tuple(self._filter.cited), tuple(doubtful), self._filter.dropped)


Find = Callable[[Progress], Awaitable[Found]]
Render = Callable[[Sequence[Message]], Sequence[Request]]


def finder(service: Service, engine: Engine, messages: Sequence[Message], **options: Any) -> Find:
    """`SearchService.find` for the caller of the request at hand. Raises ApiError 400 for what cannot be searched."""
    if service.search is None:
        raise bad_request("This server does not search: leave search out", "search")
    last_user_turn(messages)
    caller = CALLER.get()
    return partial(service.search.find, engine, messages, caller=caller.name if caller else None, **options)


class SearchedGeneration:
    """`Generation` with a search before it, and the same face; its events are ServerEvents.

    The steps of the search and what it found come as events of choice 0. A context manager: leaving it, however that
    happens, ends the search or the generation, whichever runs.
    """

    def __init__(self, service: Service, engine: Engine, find: Find, render: Render, model: str, choices: int) -> None:
        """`find` searches; `render` makes the requests of a conversation and is called in a thread.

        Raises ApiError where the caller's key has reached a limit. What the engine refuses is raised in the midst.
        """
        self._service, self._engine, self._model = service, engine, model
        self._find, self._render = find, render
        self._arrivals: asyncio.Queue[Step | Found | ApiError] = asyncio.Queue()
        self._open = contextlib.ExitStack()
        self._meter = service.accounts.open_meter(model, choices) if service.accounts is not None else None
        self._unmetered = self._open.enter_context(contextlib.ExitStack())
        if self._meter is not None:
            self._unmetered.callback(self._meter.expect, 0)  # unless a generation takes it over
        service.active.add(self)
        self._open.callback(service.active.discard, self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def abort(self, error: ApiError) -> None:
        """End the search with an error in place of its next step."""
        self._arrivals.put_nowait(error)

    async def __aiter__(self) -> AsyncIterator[Sequence[tuple[int, ServerEvent]]]:
        """Several events at a time when they come faster than they are read; ends after the last choice's Finished."""
        search = asyncio.ensure_future(self._search())
        self._open.callback(search.cancel)
        arrival: Step | Found | ApiError | None = None
        while not isinstance(arrival, Found):
            arrival = await self._arrivals.get()
            if isinstance(arrival, ApiError):
                raise arrival
            yield [(0, arrival)]
        requests = await asyncio.to_thread(self._render, arrival.messages)
        answers = [CitedAnswer(arrival.sources, opening=arrival.opening) for _ in requests]
        async for events in self._generation(requests):
            cited = [(choice, one) for choice, event in events for one in answers[choice].take(event)]
            if cited:
                yield cited

    async def _search(self) -> None:
        try:
            self._arrivals.put_nowait(await self._find(self._arrivals.put_nowait))
        except ApiError as error:
            self._arrivals.put_nowait(error)

    def _generation(self, requests: Sequence[Request]) -> Generation:
        self._unmetered.pop_all()
        generation = Generation(self._service, self._engine, requests, self._model, meter=self._meter)
        self._service.active.discard(self)
        return self._open.enter_context(generation)
