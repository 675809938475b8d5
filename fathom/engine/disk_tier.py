"""The prefix cache's second tier: published pages go to disk in the background, and come back before they are needed.

Nothing here holds up a step. Pages are read out of the runner's memory by a thread of our own: a published page is
never written while it is published, so what was read is whole if the page is still the same publication afterwards.
Pages come back as published pages that nobody holds, so whoever admits a sequence finds them as if never away.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from fathom.engine.page_store import PageStore
from fathom.engine.pages import Digest, PagePool
from fathom.engine.runner import PagingRunner

log = logging.getLogger("fathom.engine")

READERS = 2
CLOSING_SECONDS = 3.0


class DiskTier:
    """Writes from the moment it is made; reads when asked.

    Args:
        store: the files.
        runner: whose pages they are.
        pool: who publishes; touched here only under `lock`.
        lock: the lock of the pool's owner.

    """

    def __init__(self, store: PageStore, runner: PagingRunner, pool: PagePool, lock: threading.Condition) -> None:
        self._store = store
        self._runner = runner
        self._pool = pool
        self._lock = lock
        self._unsaved: OrderedDict[Digest, tuple[int, int]] = OrderedDict()  # -> page, index in its prefix
        self._news = threading.Event()
        self._deadline: float | None = None  # once closing
        self._buffers = threading.local()  # .own: a page of each reader's own
        self._readers = ThreadPoolExecutor(READERS, "fathom-prefix-read")
        self._promoting: list[tuple[Digest, int, Future[bool]]] = []
        self._held: list[int] = []  # the pages before those
        pool.on_publish = self._published
        self._writer = threading.Thread(target=self._write_all, name="fathom-prefix-write", daemon=True)
        self._writer.start()

    # The engine's thread ----------------------------------------------------------------------------------------------

    @property
    def promoting(self) -> bool:
        """Whether pages are on their way, and held until `promoted` says that they are there."""
        return bool(self._promoting)

    def promote(self, digests: Sequence[Digest], known: int, most: int) -> None:
        """Begin to bring back the pages of a prefix, given the digests of all of its pages.

        The first `known` are published; of the others at most `most` come, up to the first that is not on disk. Called
        under the lock, when nothing else is on its way.
        """
        self._held = [page for digest in digests[:known] if (page := self._pool.share(digest)) is not None]
        for index, digest in enumerate(digests[known : known + most], known):
            if not self._store.has(digest):
                break
            page = self._pool.allocate()
            self._promoting.append((digest, page, self._readers.submit(self._bring_back, digest, page, index)))
        if not self._promoting:
            self._release_held()

    def promoted(self, timeout: float | None) -> int | None:
        """Wait so long for the pages that were asked for; how many came back, None while some are on their way."""
        if not self._promoting:
            return 0
        if wait([future for *_, future in self._promoting], timeout).not_done:
            return None
        came, whole = 0, True
        with self._lock:
            for digest, page, future in self._promoting:
                whole = whole and future.exception() is None and future.result()
                came += whole and self._pool.publish(page, digest)
            for _, page, _ in reversed(self._promoting):
                self._pool.release(page)
            self._release_held()
        self._promoting = []
        return came

    def close(self) -> None:
        """Save what is left, for a moment; then end the threads. The runner's pages are not touched afterwards."""
        self.promoted(None)
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._pool.on_publish = None
        self._deadline = time.monotonic() + CLOSING_SECONDS
        self._news.set()
        self._writer.join()

    def _release_held(self) -> None:
        for page in reversed(self._held):
            self._pool.release(page)
        self._held = []

    # Other threads ----------------------------------------------------------------------------------------------------

    def _published(self, page: int, digest: Digest, index: int) -> None:
        """Called under the lock."""
        self._unsaved[digest] = page, index
        self._news.set()

    def _bring_back(self, digest: Digest, page: int, index: int) -> bool:
        if not hasattr(self._buffers, "own"):
            self._buffers.own = bytearray(self._runner.bytes_per_page)
        found = self._store.read(digest, self._buffers.own, index)
        if found:
            self._runner.write_page(page, self._buffers.own)
        return found

    def _write_all(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            while self._unsaved:
                if self._deadline is not None and time.monotonic() > self._deadline:
                    log.warning("%d pages of the prefix cache were not saved in time", len(self._unsaved))
                    return
                try:
                    self._write_next()
                except Exception:
                    log.exception("a page of the prefix cache could not be saved")
            if self._deadline is not None:
                return

    def _write_next(self) -> None:
        with self._lock:
            digest, (page, index) = self._unsaved.popitem(last=False)
            publication = self._pool.publication(digest, page)
        if publication is None or self._store.has(digest):
            return
        data = self._runner.read_page(page)
        with self._lock:
            whole = self._pool.publication(digest, page) == publication
        if whole:
            self._store.write(digest, data, index)
