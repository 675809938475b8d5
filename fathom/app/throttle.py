"""Who guesses passwords is slowed down."""

import time
from collections import OrderedDict

from fathom.server.errors import ApiError


class Throttle:
    """Slows down who guesses: after some wrong passwords for one name from one address, or from one address for many
    names, the next may be tried only after a while, which doubles.
    """

    def __init__(self, free: int = 5, first: float = 5.0, most: float = 900.0, kept: int = 10_000) -> None:
        self._free, self._first, self._most, self._kept = free, first, most, kept
        self._wrong: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()

    def check(self, *doors: tuple[str, str]) -> None:
        """Raise ApiError 429 where it is too early."""
        wait = max(self._until(door) for door in doors) - time.monotonic()
        if wait > 0:
            message = f"Too many wrong passwords: try again in {wait:.0f} s"
            raise ApiError(429, message, code="throttled", retry_after=int(wait) + 1)

    def wrong(self, *doors: tuple[str, str]) -> None:
        """A wrong password was given."""
        for door in doors:
            count, _ = self._wrong.pop(door, (0, 0.0))
            over = count + 1 - self._free * (1 if door[1] else 4)  # an address may serve a family
            wait = min(self._first * 2.0**over, self._most) if over >= 0 else 0.0
            self._wrong[door] = (count + 1, time.monotonic() + wait)
        while len(self._wrong) > self._kept:
            self._wrong.popitem(last=False)

    def right(self, *doors: tuple[str, str]) -> None:
        """The right one was given."""
        for door in doors:
            self._wrong.pop(door, None)

    def _until(self, door: tuple[str, str]) -> float:
        return self._wrong.get(door, (0, 0.0))[1]
