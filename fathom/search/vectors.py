"""Static vectors of words, made of a model's own token embeddings: what a word may also be called. numpy only.

Made once (`make_vectors`) and kept as two files: words, one a line, and their unit vectors as int8, memory-mapped.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIZE = 256  # of a vector
COMMON_DIRECTIONS = 10  # taken out of all vectors
_SCALE = 127.0
_WORD = re.compile(r"[^\W\d_]+")
_FILES = ("words.txt", "vectors.npy")

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class WordVectors:
    """`rows` says where a word (folded in case and width) lies in `table_WD`, int8 unit vectors times 127."""

    rows: dict[str, int]
    table_WD: NDArray[np.int8]

    def of(self, words: Sequence[str]) -> tuple[NDArray[np.int64], Floats]:
        """Places in `words` of those that have a vector, and their vectors [places, D] of about unit length."""
        known = np.array([place for place, word in enumerate(words) if word in self.rows], np.int64)
        rows = [self.rows[words[place]] for place in known]
        return known, self.table_WD[rows].astype(np.float32) / np.float32(_SCALE)

    def save(self, folder: Path) -> None:
        """Write both files; the vectors last, so that a folder that has them is whole."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _FILES[0]).write_text("\n".join(self.rows), encoding="utf-8")
        unfinished = folder / f".{_FILES[1]}"
        with unfinished.open("wb") as file:
            np.save(file, self.table_WD, allow_pickle=False)
        unfinished.replace(folder / _FILES[1])


def load_vectors(folder: Path) -> WordVectors | None:
    """What was saved, or None where there is nothing whole."""
    try:
        words = (folder / _FILES[0]).read_text(encoding="utf-8").split("\n")
        table = np.load(folder / _FILES[1], mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    if table.shape != (len(words), SIZE) or table.dtype != np.int8:
        return None
    return WordVectors({word: row for row, word in enumerate(words)}, table)


def make_vectors(embeddings_VD: Floats, tokens: Iterable[bytes]) -> WordVectors:
    """Vectors of the words that are one token (with the space before them) of a vocabulary.

    Mean and common directions are removed (all-but-the-top, Mu and Viswanath 2018), the rest is reduced to SIZE
    dimensions by its principal directions. Words of several tokens get none: the mean of their pieces says little.
    """
    centred_VD = embeddings_VD - embeddings_VD.mean(axis=0)
    common = _principal(centred_VD, COMMON_DIRECTIONS)
    rows = _whole_words(tokens)
    words_WD = centred_VD[list(rows.values())]
    words_WD = words_WD - (words_WD @ common.T) @ common
    words_WD = words_WD - words_WD.mean(axis=0)
    reduced = words_WD @ _principal(words_WD, SIZE).T
    lengths = np.linalg.norm(reduced, axis=1, keepdims=True)
    unit = reduced / np.maximum(lengths, 1e-12)
    table = np.zeros((len(rows), SIZE), np.int8)
    table[:, : unit.shape[1]] = np.round(unit * _SCALE)
    return WordVectors({word: row for row, word in enumerate(rows)}, table)


def _principal(data_ND: Floats, count: int) -> Floats:
    """The first principal directions [count, D], from the covariance."""
    _, directions = np.linalg.eigh(data_ND.T @ data_ND)
    return np.ascontiguousarray(directions[:, ::-1][:, :count].T, np.float32)


def _whole_words(tokens: Iterable[bytes]) -> dict[str, int]:
    """Token ids by word, in the order of ids; the spelling in small letters counts before others."""
    found: dict[str, tuple[bool, int]] = {}
    for token, data in enumerate(tokens):
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            continue
        written = text.removeprefix(" ")
        if written == text or not _WORD.fullmatch(written):
            continue
        word = unicodedata.normalize("NFKC", written).casefold()
        if word not in found or (written == word and not found[word][0]):
            found[word] = (written == word, token)
    return {word: token for word, (_, token) in found.items()}
