"""Keep evaluation sets out of training text: documents that share a long run of words with one are found by n-grams."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fathom.data.errors import SourceError
from fathom.data.ngrams import Hashes, ngram_hashes, word_hashes, words_of
from fathom.data.pieces import Part, files_of
from fathom.data.reading import read_part
from fathom.data.recipe import Decontaminate, Evaluation, Source


@dataclass(frozen=True, slots=True)
class EvaluationNgrams:
    """The n-grams of one evaluation set, sorted, by their length in words."""

    name: str
    items: int
    too_short: int
    by_length: dict[int, Hashes]


def read_evaluations(settings: Decontaminate, base: Path) -> list[EvaluationNgrams]:
    """Hash all evaluation sets; raises SourceError for missing files and fields, and for sets without a usable item."""
    return [_hashed(evaluation, settings, base) for evaluation in settings.evaluations]


def _hashed(evaluation: Evaluation, settings: Decontaminate, base: Path) -> EvaluationNgrams:
    found: dict[int, list[Hashes]] = {}
    items = too_short = 0
    for text in _items(evaluation, base):
        items += 1
        words = words_of(text)
        if len(words) < settings.shortest:
            too_short += 1
            continue
        length = min(settings.words, len(words))
        found.setdefault(length, []).append(ngram_hashes(word_hashes(words), length))
    if not found:
        raise SourceError(f"the evaluation set {evaluation.name!r} has no text of {settings.shortest} words or more")
    return EvaluationNgrams(
        evaluation.name, items, too_short, {length: np.unique(np.concatenate(h)) for length, h in sorted(found.items())}
    )


def _items(evaluation: Evaluation, base: Path) -> Iterator[str]:
    for field in evaluation.fields:
        source = Source(name="evaluation", paths=evaluation.paths, format="jsonl", field=field)
        for file in files_of(source, base):
            yield from filter(None, read_part(source, Part(file, 0, file.stat().st_size)))


def contaminated_by(hashes: Hashes, evaluations: Sequence[EvaluationNgrams]) -> str | None:
    """The name of the first evaluation set that shares an n-gram with the document's words, or None."""
    grams: dict[int, Hashes] = {}
    for evaluation in evaluations:
        for length, known in evaluation.by_length.items():
            if length not in grams:
                grams[length] = ngram_hashes(hashes, length)
            if _share_any(grams[length], known):
                return evaluation.name
    return None


def _share_any(grams: Hashes, known: Hashes) -> bool:
    places = np.minimum(np.searchsorted(known, grams), len(known) - 1)
    return bool(np.any(known[places] == grams))
