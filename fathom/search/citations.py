"""Citations in an answer, as it streams: numbers become sources, by code and never by the model.

One number ties prompt, answer and list together: the model writes `[citation:N]` for page N of the prompt, the reader
sees `[M]`, where M counts the sources in the order in which they are first cited.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fathom.search.engines import Source
from fathom.search.terms import content_terms

_OPENING = "[citation"
_MARK = re.compile(r"\[citation ?[:：] ?(\d{1,4}(?:[,，、] ?\d{1,4}){0,7})\]", re.IGNORECASE)
_BEGUN = re.compile(r" ?(?:[:：][\d,，、 ]{0,60})?")
_SENTENCE_END = re.compile(r"[.!?](?=\s)|[。！？؟\n]")


@dataclass(frozen=True, slots=True)
class Citation:
    """A mark in the answer at characters start to end (exclusive), for `sources[source]`, the `number`th cited."""

    number: int
    source: int
    start: int
    end: int


Mark = Callable[[int, int], str]


def reader_mark(number: int, source: int) -> str:  # noqa: ARG001 - the other marks need it
    """`[M]`, where M counts the cited sources."""
    return f"[{number}]"


def stored_mark(number: int, source: int) -> str:  # noqa: ARG001
    """`[citation:N]`, as the model is asked to write it: what is stored can be shown in any way, and continued."""
    return f"[citation:{source + 1}]"


class CitationFilter:
    """Rewrites `[citation:N]` to `[M]` in a stream; what may become a mark is held back until it is one or is not.

    Numbers without a source are dropped and counted in `dropped`. The output does not depend on how the input is cut.
    """

    def __init__(self, sources: int, mark: Mark = reader_mark) -> None:
        self._sources = sources
        self._mark = mark
        self._held = ""
        self._written = 0
        self._numbers: dict[int, int] = {}
        self.citations: list[Citation] = []
        self.dropped = 0

    @property
    def cited(self) -> list[int]:
        """Places of the cited sources, in the order of their numbers: the source shown as [M] is `cited[M - 1]`."""
        return list(self._numbers)

    def push(self, text: str) -> str:
        """Take what came, return what can be shown."""
        self._held += text
        return self._release(final=False)

    def finish(self) -> str:
        """Return what was still held back."""
        return self._release(final=True)

    def _release(self, *, final: bool) -> str:
        shown: list[str] = []
        while self._held:
            plain, bracket, rest = self._held.partition("[")
            self._show(plain, shown)
            self._held = bracket + rest
            mark = _MARK.match(self._held)
            if mark:
                self._held = self._held[mark.end() :]
                self._cite(mark[1], shown)
            elif bracket and not final and _may_become_mark(self._held):
                break
            elif bracket:
                self._show("[", shown)
                self._held = rest
        return "".join(shown)

    def _show(self, text: str, shown: list[str]) -> None:
        shown.append(text)
        self._written += len(text)

    def _cite(self, numbers: str, shown: list[str]) -> None:
        for written in re.findall(r"\d+", numbers):
            source = int(written) - 1
            if not 0 <= source < self._sources:
                self.dropped += 1
                continue
            number = self._numbers.setdefault(source, len(self._numbers) + 1)
            start = self._written
            self._show(self._mark(number, source), shown)
            self.citations.append(Citation(number, source, start, self._written))


def _may_become_mark(text: str) -> bool:
    head, tail = text[: len(_OPENING)].lower(), text[len(_OPENING) :]
    return _OPENING.startswith(head) and (not tail or _BEGUN.fullmatch(tail) is not None)


def stored_citations(answer: str, sources: int) -> list[Citation]:
    """The marks of an answer whose filter wrote `stored_mark`."""
    filtered = CitationFilter(sources, stored_mark)
    filtered.push(answer)
    filtered.finish()
    return filtered.citations


def url_citations(citations: Sequence[Citation], sources: Sequence[Source]) -> list[dict[str, object]]:
    """OpenAI's annotations of a chat message: `url_citation` with the range of characters of the mark."""
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": one.start,
                "end_index": one.end,
                "url": sources[one.source].url,
                "title": sources[one.source].title,
            },
        }
        for one in citations
    ]


def unsupported(answer: str, citations: Sequence[Citation], sources: Sequence[Source]) -> list[Citation]:
    """Citations whose source shares no content word with the sentence they stand behind.

    A cheap check of groundedness: it finds sources that speak of something else, not those that say the opposite.
    """
    return [one for one in citations if not _shares_words(_sentence(answer, citations, one), sources[one.source])]


def _sentence(answer: str, citations: Sequence[Citation], citation: Citation) -> str:
    """The words before a mark, back to the end of the sentence before; other marks are no words."""
    before = answer[: citation.start]
    for other in reversed([one for one in citations if one.end <= citation.start]):
        before = before[: other.start] + " " * (other.end - other.start) + before[other.end :]
    # A mark may stand behind the full stop of its sentence.
    before = before.rstrip().rstrip(".!?。！？؟").rstrip()
    ends = [match.end() for match in _SENTENCE_END.finditer(before)]
    return before[ends[-1] :] if ends else before


def _shares_words(sentence: str, source: Source) -> bool:
    passage = set(content_terms(f"{source.title} {source.snippet} {source.text or ''}"))
    return not passage.isdisjoint(content_terms(sentence))
