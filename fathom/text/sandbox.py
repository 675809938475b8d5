"""Renders templates that came with a checkpoint, in a process of their own and within limits.

Limits: 64 KiB of source, 8 million characters of output, 512 MiB of memory, 5 seconds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fathom.text.errors import TemplateError
from fathom.text.worker_process import WorkerProcess, WorkerProcessError

MAX_SOURCE = 64 * 1024  # characters; the longest published chat templates have about 20,000
MAX_OUTPUT = 8_000_000  # characters
MAX_SECONDS = 5.0
_MAX_LINE = 8 * MAX_OUTPUT  # bytes of JSON


class TemplateSandbox:
    """One process that renders one template at a time."""

    def __init__(self, max_seconds: float = MAX_SECONDS, max_output: int = MAX_OUTPUT) -> None:
        self._max_seconds = max_seconds
        self._max_output = max_output
        self._process = WorkerProcess(Path(__file__).with_name("sandbox_worker.py"), _MAX_LINE)

    def render(self, source: str, variables: Mapping[str, Any]) -> str:
        """The template's output. Raises TemplateError when it fails or goes over a limit; `variables` must be JSON."""
        if len(source) > MAX_SOURCE:
            raise TemplateError(f"the chat template has {len(source)} characters; {MAX_SOURCE} is the most accepted")
        request = {"source": source, "variables": variables, "limit": self._max_output}
        try:
            answer = self._process.ask(request, self._max_seconds)
        except WorkerProcessError as error:
            raise TemplateError(f"the sandbox for chat templates: {error}") from error
        if answer is None:
            answer = {"error": f"it took longer than {self._max_seconds:g} seconds, or broke its process"}
        if "error" in answer:
            line = f" (line {answer['line']})" if answer.get("line") else ""
            raise TemplateError(f"the checkpoint's chat template failed{line}: {answer['error']}")
        return str(answer["text"])

    def close(self) -> None:
        """End the process."""
        self._process.close()


SANDBOX = TemplateSandbox()
