"""What a run has said so far, numbered: any number of viewers read it from any point, and wait for more."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

_GROWING = ("thought", "answer")  # neighbouring pieces of these may be joined

Chunk = dict[str, Any]


class EventLog:
    """Events in order, numbered from 1. Used on the event loop only."""

    def __init__(self) -> None:
        self._events: list[tuple[str, dict[str, Any]]] = []
        self._more = asyncio.Event()
        self.ended = False

    @property
    def last(self) -> int:
        """The number of the newest event."""
        return len(self._events)

    def put(self, kind: str, data: dict[str, Any]) -> None:
        """Append an event and wake who waits; `end` is the last."""
        self._events.append((kind, data))
        self.ended = kind == "end"
        self._more.set()
        self._more = asyncio.Event()

    async def after(self, number: int) -> AsyncIterator[Sequence[Chunk]]:
        """`{id, event, data}` of what came after this number, then of what comes, until the end."""
        while True:
            if number < self.last:
                read, number = number, self.last  # more may come while the reader is slow
                yield _joined(read, self._events[read:number])
            elif self.ended:
                return
            else:
                await self._more.wait()


def _joined(number: int, events: Sequence[tuple[str, dict[str, Any]]]) -> list[Chunk]:
    chunks: list[Chunk] = []
    for place, (kind, data) in enumerate(events, start=number + 1):
        if kind in _GROWING and chunks and chunks[-1]["event"] == kind:
            chunks[-1]["data"]["pieces"].append(data["text"])
            chunks[-1]["id"] = place
        elif kind in _GROWING:
            chunks.append({"id": place, "event": kind, "data": {"pieces": [data["text"]]}})
        else:
            chunks.append({"id": place, "event": kind, "data": data})
    for chunk in chunks:
        if chunk["event"] in _GROWING:
            chunk["data"] = {"text": "".join(chunk["data"]["pieces"])}
    return chunks
