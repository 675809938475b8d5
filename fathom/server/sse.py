"""How answers travel: server-sent events for streams, one JSON body else; both show signs of life and watch the client.

Both responses end their source the moment the client is gone, whatever the source is doing.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fathom.server.config import ServerConfig
from fathom.server.dialects import Dialect, encode
from fathom.server.errors import ApiError

_STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store"}
_STREAM_HEADERS["x-accel-buffering"] = "no"  # nginx would hold the tokens back


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class WatchedResponse(Response):
    """A response whose work is cancelled when the client goes, or reads nothing for `config.send_seconds`.

    `resource` is entered before the work and left when it ends, however that happens.
    """

    def __init__(
        self,
        config: ServerConfig,
        headers: Mapping[str, str],
        resource: AbstractContextManager[Any],
        dialect: Dialect,
    ) -> None:
        super().__init__(headers=dict(headers))
        del self.headers["content-length"]
        self.config = config
        self.resource = resource
        self.dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """ASGI: work until done or the client is gone."""
        with self.resource:
            await self._work_while_connected(receive, send)

    async def _work_while_connected(self, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self.work(send))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        if not work.cancelled():
            work.result()

    async def work(self, send: Send) -> None:
        """Produce and send the answer."""
        raise NotImplementedError

    async def start(self, send: Send) -> None:
        """Send status and headers."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

    async def write(self, send: Send, data: bytes, *, more: bool = True) -> None:
        """Send a piece of the body; a reader that blocks for too long ends the work."""
        async with asyncio.timeout(self.config.send_seconds):
            await send({"type": "http.response.body", "body": data, "more_body": more})


class EventStream(WatchedResponse):
    """Chunks as the dialect's events, its sign of life while there are none, its last word at the end.

    `source` yields the chunks that are ready, several at a time when the reader is slower than the engine. An ApiError
    raised by it is past the point of a status code: it becomes the dialect's error event. `accepted` is awaited before
    the headers: what it raises has a status code still.
    """

    def __init__(
        self,
        source: AsyncIterator[Sequence[Mapping[str, Any]]],
        config: ServerConfig,
        headers: Mapping[str, str],
        resource: AbstractContextManager[Any],
        dialect: Dialect,
        accepted: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(config, {**_STREAM_HEADERS, **headers}, resource, dialect)
        self.accepted = accepted
        self.source = source
        self._written = 0.0  # when, by the loop's clock

    async def work(self, send: Send) -> None:
        """Send what the source yields, and signs of life while it does not."""
        if self.accepted is not None:
            await self.accepted()
        await self.start(send)
        tasks = [asyncio.ensure_future(self._send_all(send)), asyncio.ensure_future(self._keep_alive(send))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def write(self, send: Send, data: bytes, *, more: bool = True) -> None:
        """As the base's; also the time of the last sign of life."""
        self._written = asyncio.get_running_loop().time()
        await super().write(send, data, more=more)

    async def _send_all(self, send: Send) -> None:
        try:
            async for chunks in self.source:
                await self.write(send, b"".join(map(self.dialect.event, chunks)))
        except ApiError as error:
            await self.write(send, self.dialect.event(self.dialect.error(error)))
        await self.write(send, self.dialect.done, more=False)

    async def _keep_alive(self, send: Send) -> None:
        """Apart from the source, so that a token costs no timer and no task; ends only by an error."""
        time, silence = asyncio.get_running_loop().time, self.config.keep_alive_seconds
        self._written = time()
        while True:
            await asyncio.sleep(self._written + silence - time())
            if time() >= self._written + silence:
                await self.write(send, self.dialect.keep_alive)


class WholeAnswer(WatchedResponse):
    """One JSON body, preceded by blank lines while the client would otherwise hear nothing.

    Until the first blank line is due, a failure has its own status code; after it, a failure is the body of a 200.
    """

    def __init__(
        self,
        answer: Awaitable[Mapping[str, Any]],
        config: ServerConfig,
        headers: Mapping[str, str],
        resource: AbstractContextManager[Any],
        dialect: Dialect,
    ) -> None:
        headers = {"content-type": "application/json", "cache-control": "no-store", **headers}
        super().__init__(config, headers, resource, dialect)
        self.answer = answer

    async def work(self, send: Send) -> None:
        """Send the answer when it is there, blank lines before."""
        coming = asyncio.ensure_future(self.answer)
        try:
            started = False
            while not (await asyncio.wait({coming}, timeout=self.config.keep_alive_seconds))[0]:
                if not started:
                    await self.start(send)
                started = True
                await self.write(send, b"\n")
            await self._finish(send, coming, started=started)
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    async def _finish(self, send: Send, coming: "asyncio.Future[Mapping[str, Any]]", *, started: bool) -> None:
        try:
            body = encode(coming.result())
        except ApiError as error:
            if not started:
                raise
            body = encode(self.dialect.error(error))
        if not started:
            await self.start(send)
        await self.write(send, body, more=False)
