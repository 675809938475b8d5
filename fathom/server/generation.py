"""The bridge from the engine's thread to the event loop: one admitted request with its choices, read as it comes.

Knows nothing of dialects: chat, completions and what comes later all read the same events.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fathom.engine import Engine, Ticket
from fathom.engine.errors import EngineClosedError, EngineError, InvalidRequestError, QueueFull
from fathom.engine.mailbox import AsyncMailbox
from fathom.engine.request import EngineEvent, Finished, Request
from fathom.server.errors import ApiError, bad_request
from fathom.server.gateway.engine import Refused, UpstreamEngine
from fathom.server.service import Service

if TYPE_CHECKING:
    from fathom.server.accounts.accounts import Meter

Arrival = tuple[int, EngineEvent] | ApiError


class Generation:
    """The events of one request, several at a time when they come faster than they are read.

    A context manager: leaving it, however that happens, cancels what still runs, so that its pages are free at once.
    """

    def __init__(
        self,
        service: Service,
        engine: Engine,
        requests: Sequence[Request],
        model: str,
        *,
        meter: "Meter | None" = None,
        prompts: int = 1,
    ) -> None:
        """Queue every choice or none. `model` is the name the client used; `meter` the call's, where one runs already.

        `prompts`: how many different prompts the requests have, each with the same number of choices.

        Raises ApiError when the engine refuses a choice, or the caller's key has reached a limit.
        """
        self._service = service
        self._arrivals = AsyncMailbox[Arrival]()
        self._tickets: list[Ticket] = []
        self._unfinished = 0
        self._began = time.monotonic()
        self._started = False
        self._is_remote = isinstance(engine, UpstreamEngine)
        self._first: list[Arrival] = []  # what came while waiting to be sure
        self._meter = meter
        if meter is None and service.accounts is not None:
            self._meter = service.accounts.open_meter(model, len(requests), prompts)
        try:
            for choice, request in enumerate(requests):
                self._tickets.append(engine.submit(request, self._receiver(choice)))
                self._unfinished += 1
        except EngineError as error:
            self.cancel()
            if self._meter is not None:
                self._meter.expect(self._unfinished)
            raise refusal(error) from error
        service.active.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._service.active.discard(self)
        self.cancel()
        metrics = self._service.metrics
        metrics.finished["aborted"] += self._unfinished
        metrics.duration.observe(time.monotonic() - self._began)

    async def accepted(self, seconds: float) -> None:
        """Wait until it is sure that there will be an answer, at most so long. Raises ApiError where there is none.

        What the engine of this process took, it answers. A server elsewhere may refuse: then its first event says so.
        """
        if self._is_remote:
            with contextlib.suppress(TimeoutError):
                self._first = await asyncio.wait_for(self._arrivals.take(), seconds)
            for arrival in self._first[:1]:  # behind a first token it is no refusal any more
                if isinstance(arrival, ApiError):
                    raise arrival
                if isinstance(arrival[1], Refused):
                    raise failure(arrival[1])

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[tuple[int, EngineEvent]]:
        """What has arrived since the last call, at least one event; ends after the last choice's Finished."""
        if self._unfinished == 0:
            raise StopAsyncIteration
        events: list[tuple[int, EngineEvent]] = []
        arrivals, self._first = self._first or await self._arrivals.take(), []
        for arrival in arrivals:
            if isinstance(arrival, ApiError):
                raise arrival
            events.append(arrival)
            self._count(arrival[1])
        return events

    def _count(self, event: EngineEvent) -> None:
        metrics = self._service.metrics
        if not self._started:
            self._started = True
            metrics.first_token.observe(time.monotonic() - self._began)
        if isinstance(event, Finished):
            self._unfinished -= 1
            metrics.finish(
                event.reason, event.usage.prompt_tokens, event.usage.cached_tokens, event.usage.completion_tokens
            )

    def position(self) -> int:
        """Place in the engine's queue of the choice that waits longest; 0 once all have begun."""
        return max((ticket.position() for ticket in self._tickets), default=0)

    def answer_now(self) -> None:
        """End the thoughts of all choices, so that the answers follow."""
        for ticket in self._tickets:
            ticket.answer_now()

    def cancel(self) -> None:
        """Tell the engine to forget what it still does for this request."""
        for ticket in self._tickets:
            ticket.cancel()

    def abort(self, error: ApiError) -> None:
        """End it with an error in place of the next event."""
        self._arrivals.put(error)

    def _receiver(self, choice: int) -> Callable[[EngineEvent], None]:
        def arrive(arrival: Arrival) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is left to read
                self._arrivals.put(arrival)

        def receive(event: EngineEvent) -> None:
            if isinstance(event, Finished) and self._meter is not None:
                self._meter.finish(event, lambda error: arrive(error or (choice, event)))
            else:
                arrive((choice, event))

        return receive


def refusal(error: EngineError) -> ApiError:
    """What the client is told when the engine does not take a request."""
    if isinstance(error, QueueFull):
        return ApiError(503, f"Server overloaded: {error}", retry_after=2)
    if isinstance(error, EngineClosedError):
        return ApiError(503, "The engine has stopped: the server needs a restart. Its log says why")
    if isinstance(error, InvalidRequestError):
        return bad_request(str(error))
    return ApiError(500, "The engine refused the request for a reason of its own; the server's log has it")


def failure(event: Finished) -> ApiError:
    """What a client is told of an answer that failed."""
    if not isinstance(event, Refused):
        return ApiError(500, "The engine failed on this answer; the server's log has the details")
    status = event.status if event.status in (400, 402, 413, 422, 429) else 503
    return ApiError(status, f"The model's server: {event.error}", retry_after=2 if status in (429, 503) else 0)
