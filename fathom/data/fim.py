"""Fill in the middle: some documents are cut in three, the middle told last (DeepSeek-V3 report, section 4.1)."""

import hashlib
from dataclasses import dataclass

from fathom.data.errors import DataError
from fathom.text import Tokenizer

BEGIN, HOLE, END = "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"


@dataclass(frozen=True, slots=True)
class FillInMiddle:
    """The three tokens of the prefix-suffix-middle form."""

    begin: int
    hole: int
    end: int

    @staticmethod
    def of(tokenizer: Tokenizer) -> "FillInMiddle":
        """The tokens by their names; raises DataError where the vocabulary has none."""
        ids = [tokenizer.control_id(token) for token in (BEGIN, HOLE, END)]
        if None in ids:
            raise DataError(
                f"this tokenizer has no {BEGIN}, {HOLE}, {END}: set fim.rate = 0, or train one with "
                "`fathom tokenizer train`"
            )
        begin, hole, end = (id for id in ids if id is not None)
        return FillInMiddle(begin, hole, end)

    def arrange(self, prefix: list[int], middle: list[int], suffix: list[int]) -> list[int]:
        """Begin prefix hole suffix end middle."""
        return [self.begin, *prefix, self.hole, *suffix, self.end, *middle]

    def restore(self, ids: list[int]) -> tuple[list[int], list[int], list[int]] | None:
        """Prefix, middle and suffix of an arranged document, or None for any other."""
        if not ids or ids[0] != self.begin or self.hole not in ids or self.end not in ids:
            return None
        hole, end = ids.index(self.hole), ids.index(self.end)
        return ids[1:hole], ids[end + 1 :], ids[hole + 1 : end]


def cut(text: str, key: bytes, rate: float) -> tuple[str, str, str] | None:
    """Prefix, middle and suffix of a document chosen with probability `rate`, else None.

    Choice and cuts (two uniform places between characters) hang on `key` alone, never on a generator's state, so a
    document is treated alike whatever stands before it and whichever process reads it.
    """
    chance, first, second = uniforms(b"fim" + key, 3)
    if chance >= rate or not text:
        return None
    low, high = sorted((int(first * (len(text) + 1)), int(second * (len(text) + 1))))
    return text[:low], text[low:high], text[high:]


def uniforms(key: bytes, count: int) -> list[float]:
    """Numbers in [0, 1) that depend on `key` only; at most 8."""
    digest = hashlib.blake2b(key, digest_size=64).digest()
    return [int.from_bytes(digest[8 * n : 8 * n + 7], "little") / 2**56 for n in range(count)]
