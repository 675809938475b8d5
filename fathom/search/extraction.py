"""Main text of HTML pages, taken out by a process of its own that is killed when a page takes too much."""

import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from fathom.search.cleaning import clean
from fathom.search.errors import ExtractionError

MAX_SECONDS = 8.0
MAX_WORKER_BYTES = 1 << 30
MAX_TITLE_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Extract:
    """What a page says; `published` is an ISO date, or None."""

    title: str
    text: str
    published: str | None = None


class Extractor:
    """A worker process, started at the first page and again after a page that it did not survive. Thread-safe."""

    def __init__(self, *, max_seconds: float = MAX_SECONDS, max_bytes: int = MAX_WORKER_BYTES) -> None:
        self._max_seconds = max_seconds
        self._max_bytes = max_bytes
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def extract(self, html: str) -> Extract:
        """Title and main text, cleaned. Raises ExtractionError beyond the limits or where there is no text."""
        with self._lock:
            line = self._ask(json.dumps(html))
        reply = json.loads(line) if line.endswith("\n") else {"error": "it took too much time or memory"}
        if "error" in reply:
            raise ExtractionError(f"the page cannot be parsed: {reply['error']}")
        text = clean(reply["text"])
        if not text:
            raise ExtractionError("the page has no text to read")
        return Extract(clean_title(reply["title"]), text, reply["date"] or None)

    def _ask(self, request: str) -> str:
        process = self._started()
        if process.stdin is None or process.stdout is None:
            raise ExtractionError("the extraction process has no pipes")
        timer = threading.Timer(self._max_seconds, process.kill)
        timer.start()
        try:
            process.stdin.write(request + "\n")
            process.stdin.flush()
            return process.stdout.readline()
        except BrokenPipeError:
            return ""
        finally:
            timer.cancel()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._close()
        # -I: nothing of the user's folder or environment can take the place of a module.
        command = [sys.executable, "-I", str(Path(__file__).with_name("extraction_worker.py")), str(self._max_bytes)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        return self._process

    def _close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def clean_title(title: str) -> str:
    """A title on one line of bounded length."""
    return " ".join(clean(title).split())[:MAX_TITLE_CHARACTERS]
