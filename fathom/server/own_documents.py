"""The own documents of this machine as a running program holds them: index, word vectors, folders read anew."""

import asyncio
import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from fathom.search.documents import refresh
from fathom.search.extraction import Extractor
from fathom.search.index import Index
from fathom.search.vectors import WordVectors
from fathom.server.word_vectors import stored_word_vectors, word_vectors

log = logging.getLogger("fathom.server")

FRESH_SECONDS = 30.0  # so long what was read counts as what is there
PATIENCE_SECONDS = 1.0  # that a search waits for changed files; the rest is read meanwhile and found by the next


class OwnDocuments:
    """Opened at the first search. Thread-safe."""

    def __init__(self, path: Path, extractor: Extractor) -> None:
        self._path = path
        self._extractor = extractor
        self._index: Index | None = None
        self._work = ThreadPoolExecutor(1, thread_name_prefix="fathom-documents")
        self._reading: Future[None] | None = None
        self._read_at = -FRESH_SECONDS
        self._vectors: WordVectors | None = None
        self._making: threading.Thread | None = None
        self._closing = threading.Event()

    @property
    def index(self) -> Index:
        """The documents, found by similar words too once there are vectors."""
        if self._index is None:
            self._index = Index(self._path)
        self._index.vectors = self.vectors
        return self._index

    @property
    def vectors(self) -> WordVectors | None:
        """The word vectors; where they were never made, the first to ask has them made and does without."""
        if self._vectors is None and self._making is None:
            self._vectors = stored_word_vectors()
            if self._vectors is None:
                self._making = threading.Thread(target=self._make_vectors, name="fathom-vectors", daemon=True)
                self._making.start()
        return self._vectors

    def _make_vectors(self) -> None:
        try:
            self._vectors = word_vectors()
        except Exception:
            log.exception("word vectors could not be made: search goes on by words alone")

    async def fresh(self) -> Index:
        """The index, after what has changed in its folders was read, as far as that is quick."""
        index = self.index
        if self._reading is None and time.monotonic() - self._read_at >= FRESH_SECONDS:
            self._reading = self._work.submit(self._read, index)
        if self._reading is not None:
            await asyncio.wait([asyncio.wrap_future(self._reading)], timeout=PATIENCE_SECONDS)
        return index

    def _read(self, index: Index) -> None:
        try:
            report = refresh(index, self._extractor, lambda: not self._closing.is_set())
            if report.added or report.removed:
                log.info("own documents: %d read anew, %d gone", report.added, report.removed)
        except Exception:
            log.exception("the folders of the own documents could not be read anew")
        finally:
            self._read_at = time.monotonic()
            self._reading = None

    def close(self) -> None:
        """Close what was opened."""
        self._closing.set()
        self._work.shutdown(wait=True)
        if self._index is not None:
            self._index.close()
