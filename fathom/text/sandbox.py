"""Renders templates that came with a checkpoint, in a process of their own and within limits.

Limits: 64 KiB of source, 8 million characters of output, 512 MiB of memory, 5 seconds. A thread cannot be stopped and a
signal only reaches the main thread; a process can be ended from anywhere, whatever it is doing.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fathom.text.errors import TemplateError

MAX_SOURCE = 64 * 1024  # characters; the longest published chat templates have about 20,000
MAX_OUTPUT = 8_000_000  # characters
MAX_SECONDS = 5.0
_START_SECONDS = 60.0  # for the process to start on a busy machine
_MAX_LINE = 8 * MAX_OUTPUT  # bytes of JSON
_ENVIRONMENT = ("SYSTEMROOT", "LD_LIBRARY_PATH", "TZ")  # all that the process is told; keys and tokens stay out


class TemplateSandbox:
    """One process that renders one template at a time; it starts when first needed and again after it was ended."""

    def __init__(self, max_seconds: float = MAX_SECONDS, max_output: int = MAX_OUTPUT) -> None:
        self._max_seconds = max_seconds
        self._max_output = max_output
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def render(self, source: str, variables: Mapping[str, Any]) -> str:
        """The template's output. Raises TemplateError when it fails or goes over a limit; `variables` must be JSON."""
        if len(source) > MAX_SOURCE:
            raise TemplateError(f"the chat template has {len(source)} characters; {MAX_SOURCE} is the most accepted")
        request = {"source": source, "variables": variables, "limit": self._max_output}
        with self._lock:
            answer = self._ask(json.dumps(request).encode() + b"\n")
        if "error" in answer:
            line = f" (line {answer['line']})" if answer.get("line") else ""
            raise TemplateError(f"the checkpoint's chat template failed{line}: {answer['error']}")
        return str(answer["text"])

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.communicate()

    def _ask(self, request: bytes) -> dict[str, str]:
        process = self._running()
        try:
            line = _exchange(process, request, self._max_seconds)
        except BrokenPipeError:
            line = b""
        if not line.endswith(b"\n"):
            self.close()
            return {"error": f"it took longer than {self._max_seconds:g} seconds, or broke its process"}
        answer: dict[str, str] = json.loads(line)
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        """The process; a new one where there is none, it died, or it belongs to the process we were forked from."""
        process = self._process
        if process is not None and self._owner == os.getpid() and process.poll() is None:
            return process
        self.close()
        self._owner = os.getpid()
        self._process = process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("sandbox_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )
        if _exchange(process, b"", _START_SECONDS) != b"ready\n":
            self.close()
            raise TemplateError(
                f"the sandbox for chat templates does not start: try `{sys.executable} -c 'import jinja2'`"
            )
        return process


def _exchange(process: subprocess.Popen[bytes], request: bytes, seconds: float) -> bytes:
    """Send a line and read one back; when the time is over the process ends, and so does the line."""
    if process.stdin is None or process.stdout is None:
        raise TemplateError("the sandbox's process has no pipes")
    deadline = threading.Timer(seconds, process.kill)
    deadline.daemon = True
    deadline.start()
    try:
        process.stdin.write(request)
        process.stdin.flush()
        return process.stdout.readline(_MAX_LINE)
    finally:
        deadline.cancel()


SANDBOX = TemplateSandbox()
atexit.register(SANDBOX.close)
