"""One of each: exact copies by hash, near copies by MinHash (Broder 1997) with locality-sensitive hashing.

The first in the order of the recipe stays. The order is that of the files, not of the processes, so the choice is the
same however the work was spread.
"""

import hashlib
import importlib
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fathom.data.errors import DataError
from fathom.data.ngrams import Hashes, ngram_hashes
from fathom.data.recipe import Deduplicate

Signature: TypeAlias = npt.NDArray[np.uint32]
_BATCH = 20_000


class Fate(IntEnum):
    """What becomes of a document."""

    KEPT = 0
    EXACT = 1
    NEAR = 2


def text_digest(text: str) -> bytes:
    """128 bits that stand for a text, apart from its white space."""
    return hashlib.blake2b(" ".join(text.split()).encode(), digest_size=16).digest()


def datasketch() -> Any:
    """The library; raises DataError with what to install where it is missing."""
    try:
        return importlib.import_module("datasketch")
    except ImportError as error:
        raise DataError(
            "near-duplicate removal needs datasketch: pip install 'fathom-llm[data]', or set deduplicate.near = false"
        ) from error


class Signer:
    """Makes MinHash signatures; its permutations are made once."""

    def __init__(self, settings: Deduplicate) -> None:
        self._settings = settings
        self._empty = datasketch().MinHash(num_perm=settings.permutations, hashfunc=int, scheme="affine32")

    def sign(self, hashes: Hashes) -> Signature:
        """The signature [permutations] of a document's words; texts shorter than a shingle are one shingle."""
        length = max(1, min(self._settings.shingle_words, len(hashes)))
        shingles = np.unique(ngram_hashes(hashes, length) >> np.uint64(32)).astype(np.uint32)
        signed = self._empty.copy()
        for start in range(0, len(shingles), _BATCH):  # bounds the memory of a book-long document
            signed.update_batch(shingles[start : start + _BATCH].tolist())
        signature: Signature = signed.hashvalues.astype(np.uint32)
        return signature


def choose(documents: Iterable[tuple[bytes, Signature | None]], settings: Deduplicate) -> Iterator[Fate]:
    """Decide on each document (digest, signature) in turn. Candidates from the hash tables are verified: a near copy
    is one whose signature agrees with that of a kept document in at least `threshold` of its places.
    """
    seen: set[bytes] = set()
    library = datasketch() if settings.near else None
    table = library.MinHashLSH(settings.threshold, settings.permutations) if library is not None else None
    kept: list[Signature] = []
    for digest, signature in documents:
        if settings.exact and digest in seen:
            yield Fate.EXACT
            continue
        seen.add(digest)
        if library is not None and table is not None and signature is not None:
            hashed = library.LeanMinHash(seed=1, hashvalues=signature, scheme="affine32")
            if any(np.mean(kept[number] == signature) >= settings.threshold for number in table.query(hashed)):
                yield Fate.NEAR
                continue
            table.insert(len(kept), hashed)
            kept.append(signature)
        yield Fate.KEPT
