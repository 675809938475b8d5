"""The last stage but one: documents that stayed become tokens, each in its split, some told middle last."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fathom.data.deduplication import Fate
from fathom.data.errors import DataError
from fathom.data.files import atomic_file, write_array, write_json
from fathom.data.fim import FillInMiddle, cut, uniforms
from fathom.data.pieces import Piece
from fathom.data.workshop import REASON_OF_FATE, Tally, Workshop
from fathom.text import Tokenizer

SPLITS = ("train", "validation")


def token_type(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """The smallest little-endian type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@dataclass(slots=True)
class Encoded:
    """The documents of one split of a piece."""

    tokens: list[npt.NDArray[np.unsignedinteger]] = field(default_factory=list)
    bytes: int = 0
    filled_in_middle: int = 0

    def counts(self) -> dict[str, int]:
        """For the card."""
        return {
            "documents": len(self.tokens),
            "tokens": sum(map(len, self.tokens)),
            "bytes": self.bytes,
            "fim_documents": self.filled_in_middle,
        }


class DocumentEncoder:
    """Documents to tokens, as the recipe says."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._recipe = workshop.recipe
        self._seed = self._recipe.seed.to_bytes(8, "little", signed=True)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The recipe's tokenizer; raises DataError where it cannot frame documents as the recipe wants."""
        tokenizer = Tokenizer.from_folder(self._workshop.base / self._recipe.tokenizer)
        if self._recipe.begin and tokenizer.bos_id is None:
            raise DataError(f"the tokenizer {self._recipe.tokenizer} names no first token: set begin = false")
        if self._recipe.end and tokenizer.eos_id is None:
            raise DataError(f"the tokenizer {self._recipe.tokenizer} names no last token: set end = false")
        return tokenizer

    @cached_property
    def _fill(self) -> FillInMiddle | None:
        return FillInMiddle.of(self.tokenizer) if self._recipe.fim.rate else None

    def encode_piece(self, piece: Piece, first_document: int) -> None:
        """Write the piece's tokens; `first_document` is where its documents begin in the list of fates."""
        digests = np.load(self._workshop.cleaned(piece, "digests.npy"))
        fates = np.load(self._workshop.fates, mmap_mode="r")[first_document : first_document + len(digests)]
        splits = {split: Encoded() for split in SPLITS}
        tally = Tally()
        for text, digest, fate in zip(self._texts(piece), digests, fates, strict=True):
            if fate != Fate.KEPT:
                tally.drop(REASON_OF_FATE[Fate(fate)], text)
                continue
            self._encode(text, digest.tobytes(), splits[self.split_of(digest.tobytes())])
        for split, encoded in splits.items():
            self._write(piece, split, encoded)
        counts = {split: encoded.counts() for split, encoded in splits.items()}
        write_json(
            self._workshop.tokens(piece, "json"), counts | {"dropped": tally.dropped, "examples": tally.examples}
        )

    def split_of(self, digest: bytes) -> str:
        """Where a document goes: by its hash, so that a copy elsewhere in the corpus goes to the same place."""
        (chance,) = uniforms(b"split" + self._seed + digest, 1)
        return "validation" if chance < self._recipe.validation else "train"

    def encode(self, text: str, digest: bytes) -> tuple[list[int], bool]:
        """The tokens of a document, framed, and whether it was arranged prefix, suffix, middle."""
        parts = cut(text, self._seed + digest, self._recipe.fim.rate) if self._fill is not None else None
        if parts is None or self._fill is None:
            ids = self.tokenizer.encode(text)
        else:
            ids = self._fill.arrange(*(self.tokenizer.encode(part) for part in parts))
        begin = [self.tokenizer.bos_id] if self._recipe.begin else []
        end = [self.tokenizer.eos_id] if self._recipe.end else []
        return [id for id in (*begin, *ids, *end) if id is not None], parts is not None

    def _encode(self, text: str, digest: bytes, into: Encoded) -> None:
        ids, is_filled = self.encode(text, digest)
        into.tokens.append(np.array(ids, dtype=token_type(self.tokenizer.vocab_size)))
        into.bytes += len(text.encode())
        into.filled_in_middle += is_filled

    def _texts(self, piece: Piece) -> Iterator[str]:
        with self._workshop.cleaned(piece, "jsonl").open("rb") as file:
            for line in file:
                yield json.loads(line)["text"]

    def _write(self, piece: Piece, split: str, encoded: Encoded) -> None:
        with atomic_file(self._workshop.tokens(piece, f"{split}.tokens")) as file:
            for document in encoded.tokens:
                file.write(document.tobytes())
        lengths = np.array([len(document) for document in encoded.tokens], dtype=np.int64)
        write_array(self._workshop.tokens(piece, f"{split}.lengths.npy"), lengths)
