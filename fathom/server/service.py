"""The model behind the server as it comes and goes: loading, ready, failed, draining; and the answers under way."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

from fathom.server.errors import ApiError
from fathom.server.metrics import Metrics

if TYPE_CHECKING:
    from fathom.engine import Engine
    from fathom.server.accounts.accounts import Accounts
    from fathom.server.searching import SearchService

log = logging.getLogger("fathom.server")

State = Literal["loading", "ready", "failed", "draining"]


class Abortable(Protocol):
    """An answer under way."""

    def abort(self, error: ApiError) -> None:
        """End it with this error."""


Progress = Callable[[str, float | None], None]
Load = Callable[[Progress], "Engine"]


class Service:
    """Loads an engine in a thread of its own while the server already listens, and hands it to the requests.

    `load` is called once with a function that takes (what is being done, how much of it from 0 to 1 or None).
    """

    def __init__(
        self,
        load: Load,
        model_name: str,
        accounts: "Accounts | None" = None,
        search: "SearchService | None" = None,
    ) -> None:
        self.model_name = model_name
        self.state: State = "loading"
        self.stage: tuple[str, float | None] = ("starting", None)
        self.failure = ""
        self.began = time.monotonic()
        self.created = int(time.time())
        self.active: set[Abortable] = set()  # answers under way
        self.metrics = Metrics()
        self.accounts = accounts  # None: calls are neither metered nor limited
        self.search = search  # None: this server does not search
        self._load = load
        self._engine: Engine | None = None
        self._loaded = asyncio.Event()
        self._loader: threading.Thread | None = None

    @property
    def still_loading(self) -> bool:
        """Whether the loading thread runs, which nothing can interrupt."""
        return self._loader is not None and self._loader.is_alive()

    @property
    def engine(self) -> "Engine | None":
        """The engine, once loaded."""
        return self._engine

    def start(self) -> None:
        """Begin to load; call it from the running event loop."""
        loop = asyncio.get_running_loop()
        target = self._load_in_thread
        self._loader = threading.Thread(target=target, args=(loop,), name="fathom-load", daemon=True)
        self._loader.start()

    def _load_in_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            engine = self._load(self._progress)
        except Exception as error:
            log.exception("the model %s could not be loaded", self.model_name)
            self._hand_over(loop, None, f"{type(error).__name__}: {error}")
        else:
            self._hand_over(loop, engine, "")

    def _hand_over(self, loop: asyncio.AbstractEventLoop, engine: "Engine | None", failure: str) -> None:
        try:
            loop.call_soon_threadsafe(self._finish_loading, engine, failure)
        except RuntimeError:  # the server has gone meanwhile
            if engine is not None:
                engine.close()

    def _progress(self, stage: str, fraction: float | None) -> None:
        self.stage = (stage, fraction)

    def _finish_loading(self, engine: "Engine | None", failure: str) -> None:
        self._engine, self.failure = engine, failure
        if self.state == "loading":
            self.state = "ready" if engine is not None else "failed"
        if engine is not None:
            self.model_name = engine.model_name
            log.info("model %s ready after %.1f s", self.model_name, time.monotonic() - self.began)
        self._loaded.set()

    async def ready(self, patience: float) -> "Engine":
        """The engine, waiting up to `patience` seconds for it to load. Raises ApiError 503."""
        if self.state == "loading":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._loaded.wait(), patience)
        if self.state == "ready" and self._engine is not None:
            return self._engine
        if self.state == "draining":
            raise ApiError(503, "The server is shutting down: send the request to another one, or later", retry_after=5)
        if self.state == "failed":
            raise ApiError(
                503, f"The model {self.model_name} could not be loaded ({self.failure}). See the server's log"
            )
        what, _ = self.stage
        raise ApiError(503, f"The model {self.model_name} is still loading ({what}): try again shortly", retry_after=2)

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, let the running ones finish for up to `seconds`, then end them with an error event."""
        self.state = "draining"
        deadline = time.monotonic() + seconds
        while self.active and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        for generation in list(self.active):
            generation.abort(ApiError(503, "The server is shutting down and could not finish this answer"))

    def close(self) -> None:
        """Stop the engine and free what it holds."""
        if self._engine is not None:
            self._engine.close()
        if self.search is not None:
            self.search.close()
        if self.accounts is not None:
            self.accounts.close()  # after the engine: what it ended last is written too
