"""The first stage: read a piece, normalise, filter, and note what deduplication will need."""

import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fathom.data.decontamination import EvaluationNgrams, contaminated_by, read_evaluations
from fathom.data.deduplication import Signature, Signer, text_digest
from fathom.data.files import atomic_file, write_array, write_json
from fathom.data.language import identify
from fathom.data.ngrams import word_hashes, words_of
from fathom.data.normalise import normalise
from fathom.data.pieces import Piece
from fathom.data.quality import code_fault, prose_fault
from fathom.data.reading import read_part
from fathom.data.recipe import Quality, Source
from fathom.data.workshop import Tally, Workshop


@dataclass(slots=True)
class Cleaned:
    """The documents of a piece that passed."""

    texts: list[str]
    digests: list[bytes]
    signatures: list[Signature]


class Cleaner:
    """Cleans pieces; keeps what is costly to make (hash functions, evaluation sets) from one piece to the next."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._recipe = workshop.recipe

    @cached_property
    def _signer(self) -> Signer | None:
        return Signer(self._recipe.deduplicate) if self._recipe.deduplicate.near else None

    @cached_property
    def _evaluations(self) -> list[EvaluationNgrams]:
        return read_evaluations(self._recipe.decontaminate, self._workshop.base)

    def clean(self, piece: Piece) -> None:
        """Write the piece's results; the JSON file, written last, says that they are complete."""
        source = self._workshop.source_of(piece)
        tally, cleaned, read, characters = Tally(), Cleaned([], [], []), 0, 0
        for part in piece.parts:
            for raw in read_part(source, part):
                read += 1
                characters += len(raw or "")
                text = normalise(raw) if raw is not None else ""
                reason = (
                    self._take(text, source, cleaned) if text.strip() else "empty" if raw is not None else "unreadable"
                )
                if reason is not None:
                    tally.drop(reason, text)
        self._write(piece, cleaned)
        counts = {"read": read, "characters_read": characters, "passed": len(cleaned.texts)}
        write_json(
            self._workshop.cleaned(piece, "json"), counts | {"dropped": tally.dropped, "examples": tally.examples}
        )

    def _take(self, text: str, source: Source, cleaned: Cleaned) -> str | None:
        """Keep the text, or say why not."""
        fault = filter_fault(text, source, self._recipe.quality)
        if fault is not None:
            return fault
        needs_words = self._signer is not None or self._evaluations
        hashes = word_hashes(words_of(text)) if needs_words else np.empty(0, dtype=np.uint64)
        evaluation = contaminated_by(hashes, self._evaluations)
        if evaluation is not None:
            return f"contaminated: {evaluation}"
        cleaned.texts.append(text)
        cleaned.digests.append(text_digest(text))
        if self._signer is not None:
            cleaned.signatures.append(self._signer.sign(hashes))
        return None

    def _write(self, piece: Piece, cleaned: Cleaned) -> None:
        with atomic_file(self._workshop.cleaned(piece, "jsonl")) as file:
            for text in cleaned.texts:
                file.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
        digests = np.frombuffer(b"".join(cleaned.digests), dtype=np.uint8).reshape(-1, 16)
        write_array(self._workshop.cleaned(piece, "digests.npy"), digests)
        if self._signer is not None:
            width = self._recipe.deduplicate.permutations
            signatures = np.array(cleaned.signatures, dtype=np.uint32).reshape(-1, width)
            write_array(self._workshop.cleaned(piece, "signatures.npy"), signatures)


def filter_fault(text: str, source: Source, quality: Quality) -> str | None:
    """Why a source's language and quality filters drop a text, or None."""
    language = identify(text).code if source.languages or source.quality == "prose" else "und"
    if source.languages and language not in source.languages:
        return f"language: {language}"
    fault = None
    if source.quality == "prose":
        fault = prose_fault(text, quality.prose, is_english=language == "en")
    elif source.quality == "code":
        fault = code_fault(text, quality.code)
    return fault and f"{source.quality}: {fault}"
