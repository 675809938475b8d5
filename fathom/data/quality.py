"""Rules that drop what is hardly text: each named, each with a threshold in the recipe, each counted in the card.

Sources: "Gopher", Rae et al. 2021 (arXiv 2112.11446), appendix A.1.1; "C4", Raffel et al. 2020 (JMLR 21:140), section
2.2; "StarCoder", Li et al. 2023 (arXiv 2305.06161), section 3.1, for code. Departures: C4's rule that a line ends in
punctuation and its list of bad words are left out (they throw away lists, verse and much of what minorities write);
Gopher's rules on the length of words and on English stop words are asked only of texts for which they make sense.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fathom.data.ngrams import CJK, Hashes, ngram_hashes, word_hashes, words_of

_HAN = re.compile(f"[{CJK}]")
_LETTER = re.compile(r"[^\W\d_]")
_BULLET = re.compile(r"\s*[-*\u2022\u2023\u25aa\u25cf\u2013]\s")
_STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
_BOILERPLATE = re.compile(r"lorem ipsum|enable javascript|javascript is (?:disabled|required)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ProseRules:
    """Gopher's and C4's thresholds; each key bears the name under which the card counts what it dropped."""

    fewest_words: int = 50
    most_words: int = 100_000
    shortest_mean_word: float = 3.0
    longest_mean_word: float = 10.0
    symbols_per_word: float = 0.1
    bullet_lines: float = 0.9
    ellipsis_lines: float = 0.3
    words_with_letters: float = 0.8
    stop_words: int = 2
    boilerplate: bool = True
    duplicate_lines: float = 0.30
    duplicate_line_characters: float = 0.20
    duplicate_paragraphs: float = 0.30
    top_2_gram: float = 0.20
    top_3_gram: float = 0.18
    top_4_gram: float = 0.16
    repeated_5_grams: float = 0.15
    repeated_10_grams: float = 0.10


@dataclass(frozen=True, slots=True)
class CodeRules:
    """StarCoder's thresholds."""

    longest_line: int = 1000
    longest_mean_line: float = 100.0
    alphanumeric: float = 0.25
    fewest_characters: int = 100


def code_fault(text: str, rules: CodeRules) -> str | None:
    """The name of the first rule that a file of code breaks, or None."""
    if len(text) < rules.fewest_characters:
        return "fewest_characters"
    lengths = [len(line) for line in text.split("\n")]
    if max(lengths) > rules.longest_line:
        return "longest_line"
    if sum(lengths) / len(lengths) > rules.longest_mean_line:
        return "longest_mean_line"
    if sum(character.isalnum() for character in text) < rules.alphanumeric * len(text):
        return "alphanumeric"
    return None


def prose_fault(text: str, rules: ProseRules, *, is_english: bool) -> str | None:
    """The name of the first rule that a text breaks, or None; English stop words are asked of English only."""
    words = words_of(text)
    count = len(words)
    if not rules.fewest_words <= count <= rules.most_words:
        return "fewest_words" if count < rules.fewest_words else "most_words"
    return next(
        (
            fault
            for faults in (
                _word_faults(text, words, rules, is_english),
                _line_faults(text, rules),
                _repetition(words, rules),
            )
            for fault in faults
        ),
        None,
    )


def _word_faults(text: str, words: list[str], rules: ProseRules, is_english: bool) -> Iterator[str]:
    spaced = text.split()
    if len(_HAN.findall(text)) < 0.3 * len(words):
        mean = sum(map(len, spaced)) / len(spaced)
        if mean < rules.shortest_mean_word:
            yield "shortest_mean_word"
        if mean > rules.longest_mean_word:
            yield "longest_mean_word"
        if sum(1 for word in spaced if _LETTER.search(word)) < rules.words_with_letters * len(spaced):
            yield "words_with_letters"
    if text.count("#") + text.count("...") + text.count("\u2026") > rules.symbols_per_word * len(words):
        yield "symbols_per_word"
    if is_english and len(_STOP_WORDS.intersection(words)) < rules.stop_words:
        yield "stop_words"
    if rules.boilerplate and _BOILERPLATE.search(text):
        yield "boilerplate"


def _line_faults(text: str, rules: ProseRules) -> Iterator[str]:
    lines = [line for line in text.split("\n") if line.strip()]
    if sum(1 for line in lines if _BULLET.match(line)) > rules.bullet_lines * len(lines):
        yield "bullet_lines"
    if sum(1 for line in lines if line.rstrip().endswith(("...", "\u2026"))) > rules.ellipsis_lines * len(lines):
        yield "ellipsis_lines"
    repeated = _repeated(lines)
    if len(repeated) > rules.duplicate_lines * len(lines):
        yield "duplicate_lines"
    if sum(map(len, repeated)) > rules.duplicate_line_characters * sum(map(len, lines)):
        yield "duplicate_line_characters"
    paragraphs = [paragraph for paragraph in text.split("\n\n") if paragraph.strip()]
    if len(_repeated(paragraphs)) > rules.duplicate_paragraphs * len(paragraphs):
        yield "duplicate_paragraphs"


def _repeated(parts: list[str]) -> list[str]:
    """Every occurrence of a part but its first."""
    return [part for part, count in Counter(part.strip() for part in parts).items() for _ in range(count - 1)]


def _repetition(words: list[str], rules: ProseRules) -> Iterator[str]:
    """Shares are of characters, as in Gopher: of the commonest n-gram, or of the words in any n-gram seen before."""
    hashes = word_hashes(words)
    lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
    for n, limit in ((2, rules.top_2_gram), (3, rules.top_3_gram), (4, rules.top_4_gram)):
        if _top_share(hashes, lengths, n) > limit:
            yield f"top_{n}_gram"
    for n, limit in ((5, rules.repeated_5_grams), (10, rules.repeated_10_grams)):
        if _repeated_share(hashes, lengths, n) > limit:
            yield f"repeated_{n}_grams"


def _top_share(hashes: Hashes, lengths: "np.ndarray[tuple[int], np.dtype[np.int64]]", n: int) -> float:
    grams = ngram_hashes(hashes, n)
    if not len(grams):
        return 0.0
    _, first, counts = np.unique(grams, return_index=True, return_counts=True)
    top = int(np.argmax(counts))
    if counts[top] < 2:
        return 0.0
    return float(counts[top] * lengths[first[top] : first[top] + n].sum() / lengths.sum())


def _repeated_share(hashes: Hashes, lengths: "np.ndarray[tuple[int], np.dtype[np.int64]]", n: int) -> float:
    grams = ngram_hashes(hashes, n)
    _, first = np.unique(grams, return_index=True)
    again = np.ones(len(grams), dtype=bool)
    again[first] = False
    inside = np.zeros(len(lengths), dtype=bool)
    for offset in range(n):
        inside[offset : offset + len(grams)] |= again
    return float(lengths[inside].sum() / lengths.sum())
