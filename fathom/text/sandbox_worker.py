"""The process in which checkpoints' Jinja templates run; started by `sandbox.py` as a script, never imported.

A template is a program by a stranger. Jinja's immutable sandbox keeps it from Python's internals (CVE-2026-5760 and
CVE-2024-34359 were templates run without one). What the sandbox does not bound, this process does: memory by the
operating system, time by its parent, which ends it. It has no environment, may write no file, and only answers JSON
lines on its standard streams.
"""

import json
import sys
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MEMORY = 512 * 2**20  # bytes of address space; Python and Jinja take about 60 MB of it


class Generation(Extension):
    """`{% generation %}` marks an assistant's tokens for training; here its body is simply rendered."""

    tags = {"generation"}  # noqa: RUF012 as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """The block as a scope."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: object, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


@lru_cache(maxsize=8)
def _compiled(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)


def _render(source: str, variables: dict[str, Any], limit: int) -> str:
    pieces: list[str] = []
    length = 0
    for piece in _compiled(source).generate(variables):
        pieces.append(piece)
        length += len(piece)
        if length > limit:
            raise TemplateError(f"it writes more than {limit} characters")
    return "".join(pieces)


def _limit_memory_and_files() -> None:
    try:
        import resource
    except ImportError:  # not on Windows: there only time and output are bounded
        return
    for kind, amount in ((resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_FSIZE, 0)):
        try:
            resource.setrlimit(kind, (amount, amount))
        except (ValueError, OSError):  # macOS knows no limit of address space
            continue


def _answer(line: bytes, render: Callable[..., str] = _render) -> dict[str, str]:
    try:
        return {"text": render(**json.loads(line))}
    except MemoryError:
        return {"error": "it needs more memory than a template may have"}
    except RecursionError:
        return {"error": "it calls itself without end"}
    except Exception as error:  # noqa: BLE001 whatever a template raises is its answer
        return {"error": f"{type(error).__name__}: {error}"[:500], "line": str(getattr(error, "lineno", ""))}


def main() -> None:
    """Answer requests, one JSON line each, until the input ends."""
    _limit_memory_and_files()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin.buffer:
        sys.stdout.write(json.dumps(_answer(line)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
