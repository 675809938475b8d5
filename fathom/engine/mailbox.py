"""From the engine's thread to whoever reads: neither ever waits for the other."""

import asyncio
from collections import deque
from queue import SimpleQueue
from typing import Generic, TypeVar

from fathom.engine.request import EngineEvent

ItemT = TypeVar("ItemT")


class Mailbox:
    """Events for a reader in another thread."""

    def __init__(self) -> None:
        self._events: SimpleQueue[EngineEvent] = SimpleQueue()
        self.put = self._events.put

    def get(self) -> EngineEvent:
        """The next event; waits for it."""
        return self._events.get()


class AsyncMailbox(Generic[ItemT]):
    """Items for a reader on the event loop that runs when this is made.

    The loop is woken once for all items that arrive before it looks, so a busy reader costs the engine little.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: deque[ItemT] = deque()
        self._arrived = asyncio.Event()
        self._woken = False

    def put(self, item: ItemT) -> None:
        """Called from any thread. Raises RuntimeError when the loop is closed."""
        self._items.append(item)
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def take(self) -> list[ItemT]:
        """All that has arrived since the last call, in order; waits for at least one."""
        while not self._items:
            await self._arrived.wait()
            self._arrived.clear()
            self._woken = False  # before the items are looked at: one that comes after wakes the loop again
        return [self._items.popleft() for _ in range(len(self._items))]
