"""From the engine's thread to whoever reads: neither ever waits for the other."""

import asyncio
from collections import deque
from queue import SimpleQueue
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary, ref

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


class _Bell:
    """Wakes an event loop once for all mailboxes that got something since it last looked: waking is a system call, and
    one step of the engine has something for every stream.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)  # the loop keeps the bell, in a dictionary that lets go of both
        self._waiting: deque[asyncio.Event] = deque()
        self._rung = False

    def ring(self, arrived: asyncio.Event) -> None:
        """Have `arrived` set on the loop. Called from any thread. Raises RuntimeError when the loop is closed."""
        self._waiting.append(arrived)
        loop = self._loop()
        if loop is None:
            raise RuntimeError("the event loop is gone")
        if not self._rung or loop.is_closed():
            self._rung = True
            loop.call_soon_threadsafe(self._set_all)

    def _set_all(self) -> None:
        self._rung = False  # before the queue is looked at: what comes after rings again
        while self._waiting:
            self._waiting.popleft().set()


_BELLS: "WeakKeyDictionary[asyncio.AbstractEventLoop, _Bell]" = WeakKeyDictionary()


def _bell() -> _Bell:
    loop = asyncio.get_running_loop()
    if loop not in _BELLS:
        _BELLS[loop] = _Bell(loop)
    return _BELLS[loop]


class AsyncMailbox(Generic[ItemT]):
    """Items for a reader on the event loop that runs when this is made.

    The loop is woken once for all items that arrive before it looks, so a busy reader costs the engine little.
    """

    def __init__(self) -> None:
        self._bell = _bell()
        self._items: deque[ItemT] = deque()
        self._arrived = asyncio.Event()
        self._woken = False

    def put(self, item: ItemT) -> None:
        """Called from any thread. Raises RuntimeError when the loop is closed."""
        self._items.append(item)
        if not self._woken:
            self._woken = True
            self._bell.ring(self._arrived)

    async def take(self) -> list[ItemT]:
        """All that has arrived since the last call, in order; waits for at least one."""
        while not self._items:
            await self._arrived.wait()
            self._arrived.clear()
            self._woken = False  # before the items are looked at: one that comes after wakes the loop again
        return [self._items.popleft() for _ in range(len(self._items))]
