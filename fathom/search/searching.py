"""From a question to numbered sources: engines at once, fused, pages read, passages chosen, what failed said."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fathom.search.cleaning import clean
from fathom.search.engines import SearchEngine, Source
from fathom.search.errors import SearchError
from fathom.search.extraction import Extract, Extractor, clean_title
from fathom.search.fetching import Page, fetch
from fathom.search.index import Document, Index
from fathom.search.ranking import fuse
from fathom.search.terms import language_of

DEFAULT_SOURCES = 8
ENGINE_SECONDS = 8.0
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Sources in order, numbered from 1 by their place; `notes` say for people what failed or was not found."""

    query: str
    sources: tuple[Source, ...]
    notes: tuple[str, ...]


class Searcher:
    """Asks engines and reads pages. A failure of any of them becomes a note, never an exception."""

    def __init__(
        self, engines: Sequence[SearchEngine], *, extractor: Extractor | None = None, allow_private: bool = False
    ) -> None:
        self._engines = tuple(engines)
        self._extractor = extractor
        self._allow_private = allow_private

    async def search(
        self, query: str, *, k: int = DEFAULT_SOURCES, seconds: float = ENGINE_SECONDS, progress: Progress | None = None
    ) -> SearchResult:
        """Search with every engine; pages of the web are read where the searcher has an extractor."""
        tell = progress or (lambda _: None)
        tell("searching: " + ", ".join(engine.name for engine in self._engines))
        notes: list[str] = []
        rankings = await asyncio.gather(*(self._ask(engine, query, k, seconds, notes) for engine in self._engines))
        sources = merge(rankings)[:k]
        if self._extractor is not None:
            unread = sum(source.text is None for source in sources)
            if unread:
                tell(f"reading {unread} pages")
            sources = list(await asyncio.gather(*(self._read(source, query, notes) for source in sources)))
        if not sources:
            where = ", ".join(engine.name for engine in self._engines) or "no engine is set up"
            notes.append(f"nothing found ({where})")
        return SearchResult(query, tuple(sources), tuple(notes))

    async def _ask(self, engine: SearchEngine, query: str, k: int, seconds: float, notes: list[str]) -> list[Source]:
        try:
            async with asyncio.timeout(seconds):
                return await engine.search(query, k, language_of(query))
        except TimeoutError:
            notes.append(f"{engine.name} did not answer within {seconds:g} s")
        except SearchError as error:
            notes.append(f"{engine.name} failed: {error}")
        return []

    async def _read(self, source: Source, query: str, notes: list[str]) -> Source:
        if source.text is not None or self._extractor is None:
            return source
        try:
            page = await fetch(source.url, allow_private=self._allow_private)
            extract = await asyncio.to_thread(read_page, page, self._extractor)
        except SearchError as error:
            notes.append(f"{source.url} could not be read, its snippet is used: {error}")
            return source
        published = source.published or extract.published
        return replace(source, text=best_passage(query, extract), published=published)


def read_page(page: Page, extractor: Extractor) -> Extract:
    """Title and text of a page of any kind that `fetch` reads. Raises ExtractionError."""
    if page.content_type in ("text/html", "application/xhtml+xml"):
        return extractor.extract(page.text)
    return Extract(clean_title(page.url), clean(page.text))


def best_passage(query: str, extract: Extract) -> str:
    """The part of a page that fits the question best, its beginning where none does."""
    with Index(None) as index:
        index.add(Document("page:", extract.title, extract.text))
        found = index.search(query, 1)
    return found[0].text if found else extract.text[:1000]


def merge(rankings: Sequence[Sequence[Source]]) -> list[Source]:
    """One order of all sources, each URL once; of doubles the one that was read, else the first, is kept."""
    kept: dict[str, Source] = {}
    for source in (source for ranking in rankings for source in ranking):
        key = _same_page(source.url)
        if key not in kept or (kept[key].text is None and source.text is not None):
            kept[key] = source
    return [kept[key] for key in fuse([[_same_page(source.url) for source in ranking] for ranking in rankings])]


def _same_page(url: str) -> str:
    return url.partition("#")[0].rstrip("/").removeprefix("https://").removeprefix("http://").removeprefix("www.")
