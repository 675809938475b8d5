"""Sentences of sources that speak of a question, quoted by code: what a model too small to cite cannot get wrong."""

import re
from collections.abc import Sequence

from fathom.search.cleaning import clean
from fathom.search.engines import Source
from fathom.search.terms import content_terms

MOST_QUOTES = 3
MOST_CHARACTERS = 300
_SENTENCE = re.compile(r"[^.!?。！？؟\n]+(?:[.!?](?=\s|$)|[。！？؟]|[.!?])*")


def quotes(question: str, sources: Sequence[Source]) -> str:
    """The sentence of each of the best sources that shares most with the question, as Markdown quotes with marks.

    A sentence counts where it shares at least half of the question's telling words, or two of them. Empty where none
    does: a source that merely was found is not quoted.
    """
    wanted = set(content_terms(question))
    lines: list[str] = []
    for number, source in enumerate(sources, start=1):
        shared, sentence = max(
            ((len(wanted.intersection(content_terms(one))), one) for one in _sentences(source)),
            key=lambda scored: scored[0],
            default=(0, ""),
        )
        if shared and (shared >= 2 or 2 * shared >= len(wanted)):
            lines.append(f"> {sentence}[citation:{number}]\n")
        if len(lines) == MOST_QUOTES:
            break
    return "\n".join(lines) + "\n" if lines else ""


def _sentences(source: Source) -> list[str]:
    text = clean(source.text or source.snippet)
    found = [match[0].strip(" #>*-|\t") for match in _SENTENCE.finditer(text)]
    return [sentence[:MOST_CHARACTERS] for sentence in found if sentence]
