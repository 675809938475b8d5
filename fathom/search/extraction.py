"""Main text of pages and files, taken out by processes of their own that are killed when one takes too much."""

import queue
from dataclasses import replace
from types import TracebackType
from typing import Self

from fathom.search.cleaning import clean
from fathom.search.decoding import decode_text
from fathom.search.errors import ExtractionError
from fathom.search.extracts import Extract, clean_title
from fathom.search.files import FILE_SECONDS, MAX_FILE_BYTES, kind_of, read_parsed, read_text
from fathom.search.worker import MAX_BYTES, Worker

PAGE_SECONDS = 8.0
PAGE_WORKERS = 2


class Extractor:
    """Reads pages and files within limits of time and memory. Thread-safe; a context manager."""

    def __init__(self, *, max_seconds: float | None = None, max_bytes: int = MAX_BYTES) -> None:
        seconds = max_seconds or PAGE_SECONDS
        self._pages = [Worker("extraction_worker.py", seconds, max_bytes) for _ in range(PAGE_WORKERS)]
        self._free: queue.LifoQueue[Worker] = queue.LifoQueue()  # last in, first out: one page wakes one process
        for worker in self._pages:
            self._free.put(worker)
        self._files = Worker("file_worker.py", max_seconds or FILE_SECONDS, max_bytes)

    def warm(self) -> None:
        """Start the processes that read pages, which takes them a while, before there is anything to read."""
        for worker in self._pages:
            worker.start()

    def extract(self, html: str) -> Extract:
        """Title and main text, cleaned. Raises ExtractionError beyond the limits or where there is no text."""
        worker = self._free.get()
        try:
            reply = worker.ask(html)
        except ExtractionError as error:
            raise ExtractionError(f"the page cannot be parsed: {error}") from error
        finally:
            self._free.put(worker)
        text = clean(reply["text"])
        if not text:
            raise ExtractionError("the page has no text to read")
        return Extract(clean_title(reply["title"]), text, reply["date"] or None)

    def extract_file(self, name: str, data: bytes) -> Extract:
        """What a file says: text, code, web page, table, PDF, Word, spreadsheet, or an image where there is OCR.

        `name` only says what the file is meant to be. Raises ExtractionError with what the person can do.
        """
        if len(data) > MAX_FILE_BYTES:
            raise ExtractionError(f"it is larger than {MAX_FILE_BYTES >> 20} MiB")
        kind = kind_of(name, data)
        if kind == "page":
            extract = self.extract(decode_text(data, None))
            return replace(extract, title=extract.title or clean_title(name))
        if kind == "text":
            try:
                return read_text(name, data.decode("utf-8-sig"))
            except UnicodeDecodeError:
                pass  # another encoding: the worker finds out which
        return read_parsed(name, kind, data, self._files)

    def close(self) -> None:
        """End the processes."""
        for worker in self._pages:
            worker.close()
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
