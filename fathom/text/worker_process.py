"""A process that answers one JSON line with another: for work by strangers' input, which may take too long or too much.

A thread cannot be stopped and a signal only reaches the main thread; a process can be ended from anywhere, whatever it
is doing. The script bounds its own memory; here its time is bounded.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

_START_SECONDS = 60.0  # for the process to start on a busy machine
_ENVIRONMENT = ("SYSTEMROOT", "LD_LIBRARY_PATH", "TZ")  # all that the process is told; keys and tokens stay out


class WorkerProcessError(RuntimeError):
    """The process does not start."""


class WorkerProcess:
    """Starts when first needed and again after it was ended; does one thing at a time.

    Args:
        script: the program; it says "ready" when it is, then answers line by line.
        max_line: most bytes of an answer.
        greeting: a first line that every new process is told before it says "ready".

    """

    def __init__(self, script: Path, max_line: int, greeting: bytes = b"") -> None:
        self._script = script
        self._max_line = max_line
        self._greeting = greeting
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        atexit.register(self.close)

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """The answer; None when it took longer than `seconds` or broke the process. Raises WorkerProcessError."""
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            process = self._running()
            try:
                answer = self._exchange(process, line, seconds)
            except BrokenPipeError:
                answer = b""
            if not answer.endswith(b"\n"):
                self.close()
                return None
        value: dict[str, Any] = json.loads(answer)
        return value

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.communicate()

    def _running(self) -> subprocess.Popen[bytes]:
        """The process; a new one where there is none, it died, or it belongs to the process we were forked from."""
        process = self._process
        if process is not None and self._owner == os.getpid() and process.poll() is None:
            return process
        self.close()
        self._owner = os.getpid()
        self._process = process = subprocess.Popen(
            [sys.executable, "-I", str(self._script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )
        try:
            ready = self._exchange(process, self._greeting, _START_SECONDS) == b"ready\n"
        except BrokenPipeError:
            ready = False
        if not ready:
            self.close()
            raise WorkerProcessError(f"{self._script.name} does not start: try `{sys.executable} {self._script}`")
        return process

    def _exchange(self, process: subprocess.Popen[bytes], request: bytes, seconds: float) -> bytes:
        """Send a line and read one back; when the time is over the process ends, and so does the line."""
        if process.stdin is None or process.stdout is None:
            raise WorkerProcessError(f"{self._script.name} has no pipes")
        deadline = threading.Timer(seconds, process.kill)
        deadline.daemon = True
        deadline.start()
        try:
            process.stdin.write(request)
            process.stdin.flush()
            return process.stdout.readline(self._max_line)
        finally:
            deadline.cancel()
