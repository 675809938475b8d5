"""Speaking to a person or a program: answers on stdout, everything else on stderr, plain where there is no terminal."""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO


def is_plain(stream: TextIO) -> bool:
    """Whether colours and redrawn lines must be left out (no terminal, a dumb one, or NO_COLOR, https://no-color.org)."""
    return not stream.isatty() or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def dim(text: str, stream: TextIO) -> str:
    """Text that steps back behind the rest."""
    return text if is_plain(stream) else f"\033[2m{text}\033[0m"


def bold(text: str, stream: TextIO) -> str:
    """Text that stands out."""
    return text if is_plain(stream) else f"\033[1m{text}\033[0m"


def note(text: str) -> None:
    """A line for the person, not part of the answer."""
    print(text, file=sys.stderr, flush=True)


def answer(text: str = "") -> None:
    """A line of the answer."""
    print(text, flush=True)


def answer_json(value: dict[str, Any]) -> None:
    """The one JSON object that `--json` promises, on one line, last."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def table(rows: Sequence[tuple[str, ...]], header: tuple[str, ...]) -> list[str]:
    """Lines of columns as wide as their widest cell."""
    cells = [header, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def human_bytes(count: float) -> str:
    """1,536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def human_count(count: float) -> str:
    """671026419200 -> '671.0B', as the field writes sizes of models."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(count) >= size:
            return f"{count / size:.1f}{unit}"
    return f"{count:.0f}"


class Progress:
    """One line that is redrawn on a terminal; else a plain line now and then."""

    def __init__(self) -> None:
        self._plain = is_plain(sys.stderr)
        self._shown = ""

    def __call__(self, stage: str, fraction: float | None = None) -> None:
        """Show what is being done, and how much of it where known."""
        text = stage if fraction is None else f"{stage} {100 * fraction:3.0f}%"
        if self._plain:
            if stage != self._shown:
                note(f"{stage} ...")
            self._shown = stage
        elif text != self._shown:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
            self._shown = text

    def done(self) -> None:
        """Leave no trace on a terminal."""
        if not self._plain and self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        self._shown = ""
