"""Serving until told to stop: bind before anything slow, drain on the first signal, leave on the second."""

import asyncio
import os
import socket
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from fathom.server.config import ServerConfig
from fathom.server.service import Service

HEADER_SECONDS = 20.0


class TimedProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose request line and headers do not come in time (slow loris)."""

    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._await_header()

    def data_received(self, data: bytes) -> None:
        """Stop the clock with a whole header; start it with the first bytes of the next one."""
        super().data_received(data)
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            self._await_header()
        else:
            self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_timer()
        super().connection_lost(exc)

    def _await_header(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None


class FathomServer(uvicorn.Server):
    """uvicorn with our shutdown: first signal drains, second exits at once; a drained server exits with 0."""

    def __init__(self, config: uvicorn.Config, service: Service, drain_seconds: float) -> None:
        super().__init__(config)
        self._service = service
        self._drain_seconds = drain_seconds
        self._told_to_stop = False
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature is uvicorn's
        """SIGINT and SIGTERM come here."""
        if self._told_to_stop:
            os._exit(128 + sig)
        self._told_to_stop = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to leave."""
        if self._told_to_stop and self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        return await super().on_tick(counter)

    async def _drain(self) -> None:
        await self._service.drain(self._drain_seconds)
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; OSError says when the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; else a token waits 40 ms for a late ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(1024)
    listener.set_inheritable(False)
    return listener


def settings(app: FastAPI, config: ServerConfig) -> uvicorn.Config:
    """How uvicorn runs the API."""
    return uvicorn.Config(
        app,
        http=TimedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=config.max_header_bytes,
        timeout_keep_alive=65,
        timeout_graceful_shutdown=2,
    )


def serve(app: FastAPI, service: Service, config: ServerConfig, listener: socket.socket) -> None:
    """Answer on `listener` until SIGINT or SIGTERM; returns when drained."""
    FathomServer(settings(app, config), service, config.drain_seconds).run(sockets=[listener])
