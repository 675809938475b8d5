"""A shuffle that is a formula: the place of each item is computed, so nothing is held and any place is at hand.

A Feistel network permutes numbers of an even count of bits whatever its round function; numbers outside the
range are sent through again until they fall inside ("cycle walking", Black and Rogaway 2002), on average at most four
times.
"""

from dataclasses import dataclass

_MASK = (1 << 64) - 1
ROUNDS = 6


@dataclass(frozen=True, slots=True)
class Permutation:
    """A one-to-one mapping of range(size) onto itself, chosen by `key`."""

    size: int
    key: int

    def __call__(self, index: int) -> int:
        """Where `index` goes."""
        if not 0 <= index < self.size:
            raise IndexError(f"{index} is outside a permutation of {self.size}")
        half = max(1, ((self.size - 1).bit_length() + 1) // 2)
        place = self._once(index, half)
        while place >= self.size:
            place = self._once(place, half)
        return place

    def _once(self, value: int, half: int) -> int:
        mask = (1 << half) - 1
        left, right = value >> half, value & mask
        for number in range(ROUNDS):
            left, right = right, left ^ (_mix(right + (number << 56) ^ self.key) & mask)
        return left << half | right


def _mix(value: int) -> int:
    """The finaliser of splitmix64."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31


def key_of(*numbers: int) -> int:
    """One 64-bit key out of several numbers."""
    key = 0
    for number in numbers:
        key = _mix(key ^ number & _MASK)
    return key
