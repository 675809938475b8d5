"""Words and their n-grams as 64-bit numbers: the ground of deduplication, decontamination and repetition rules."""

import re
import zlib
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Hashes: TypeAlias = npt.NDArray[np.uint64]

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# Scripts written without spaces count every character as a word.
_WORD = re.compile(f"[{CJK}]|[^\\W_{CJK}]+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation; each Chinese or Japanese character is a word."""
    return _WORD.findall(text.lower())


def word_hashes(words: list[str]) -> Hashes:
    """One number a word."""
    return np.fromiter((zlib.crc32(word.encode()) for word in words), dtype=np.uint64, count=len(words))


def ngram_hashes(hashes: Hashes, n: int) -> Hashes:
    """The hash of each run of n words: a polynomial modulo 2^64, then mixed; empty where there are fewer words."""
    if len(hashes) < n:
        return np.empty(0, dtype=np.uint64)
    rows = len(hashes) - n + 1
    total = np.zeros(rows, dtype=np.uint64)
    for offset in range(n):
        total = total * _MULTIPLIER + mixed(hashes[offset : offset + rows])
    return mixed(total)


def mixed(values: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): spreads every input bit over all output bits."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed_values: Hashes = values ^ (values >> np.uint64(31))
    return mixed_values
