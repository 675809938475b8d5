"""A process that parses what strangers wrote: asked a line of JSON, answers a line, killed when it takes too much."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from fathom.search.errors import ExtractionError

MAX_BYTES = 1 << 30


class Worker:
    """Runs a script of this folder; started at the first request and again after one it did not survive. Thread-safe.

    The script gets its limit of memory as its argument. It is given no more time than `max_seconds` a request.
    """

    def __init__(self, script: str, max_seconds: float, max_bytes: int = MAX_BYTES) -> None:
        self._script = Path(__file__).with_name(script)
        self._max_seconds = max_seconds
        self._max_bytes = max_bytes
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def ask(self, request: object) -> dict[str, Any]:
        """The reply. Raises ExtractionError beyond the limits, and with what the script says went wrong."""
        with self._lock:
            line = self._exchange(json.dumps(request))
        if not line.endswith("\n"):
            raise ExtractionError("it took too much time or memory")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ExtractionError(reply["error"])
        return reply

    def start(self) -> None:
        """Start the process, if it does not run."""
        with self._lock:
            self._started()

    def _exchange(self, request: str) -> str:
        process = self._started()
        if process.stdin is None or process.stdout is None:
            raise ExtractionError("the extraction process has no pipes")
        timer = threading.Timer(self._max_seconds, _kill, (process,))
        timer.start()
        try:
            process.stdin.write(request + "\n")
            process.stdin.flush()
            return process.stdout.readline()
        except BrokenPipeError:
            return ""
        finally:
            timer.cancel()

    def _started(self) -> "subprocess.Popen[str]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._close()
        # -I: nothing of the user's folder or environment can take the place of a module.
        command = [sys.executable, "-I", str(self._script), str(self._max_bytes)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # what it starts (an OCR program) is killed with it
        )
        return self._process

    def _close(self) -> None:
        if self._process is not None:
            _kill(self._process)
            self._process.communicate()
            self._process = None

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._close()


def _kill(process: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
