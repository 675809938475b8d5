"""From a question to numbered sources: engines at once, fused, pages read, passages chosen, what failed said."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fathom.search.addresses import is_named
from fathom.search.cleaning import clean
from fathom.search.engines import LocalEngine, SearchEngine, Source
from fathom.search.errors import SearchError
from fathom.search.extraction import Extractor
from fathom.search.extracts import Extract, clean_title
from fathom.search.fetching import Page, fetch
from fathom.search.index import Document, Index
from fathom.search.ranking import distinct, fuse
from fathom.search.restriction import Restriction
from fathom.search.terms import language_of
from fathom.search.vectors import WordVectors

DEFAULT_SOURCES = 8
ENGINE_SECONDS = 8.0
READING_SECONDS = 12.0
UNRESTRICTED = Restriction()


@dataclass(frozen=True, slots=True)
class Step:
    """How far a search is: asking engines, or reading so many pages of the web."""

    stage: Literal["searching", "reading"]
    queries: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    pages: int = 0

    def __str__(self) -> str:
        if self.stage == "searching":
            return "searching: " + ", ".join(self.engines)
        return f"reading {self.pages} page" + ("s" if self.pages > 1 else "")


@dataclass(frozen=True, slots=True)
class Note:
    """What did not go as it should: a `kind` for programs, its subject (an engine, a URL), a sentence for people."""

    kind: Literal[
        "engine_slow",
        "engine_failed",
        "search_failed",
        "page_unread",
        "nothing_found",
        "no_room",
        "documents_private",
    ]
    subject: str
    text: str

    def __str__(self) -> str:
        return self.text


Progress = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Sources in order, numbered from 1 by their place; `notes` say what failed or was not found."""

    queries: tuple[str, ...]
    sources: tuple[Source, ...]
    notes: tuple[Note, ...]


class Searcher:
    """Asks engines and reads pages. A failure of any of them becomes a note, never an exception."""

    def __init__(
        self,
        engines: Sequence[SearchEngine],
        *,
        extractor: Extractor | None = None,
        private_origins: frozenset[str] = frozenset(),
        vectors: WordVectors | None = None,
    ) -> None:
        """`vectors` help to choose passages of pages. `private_origins` may be opened though they are of this machine
        or network (`http://wiki.home:8080`).
        """
        self._engines = tuple(engines)
        self._extractor = extractor
        self._private_origins = private_origins
        self._vectors = vectors

    async def search(
        self,
        *queries: str,
        k: int = DEFAULT_SOURCES,
        restriction: Restriction = UNRESTRICTED,
        seconds: float = ENGINE_SECONDS,
        reading_seconds: float = READING_SECONDS,
        progress: Progress | None = None,
    ) -> SearchResult:
        """Ask every engine every query; pages of the web are read where the searcher has an extractor."""
        tell = progress or (lambda _: None)
        engines = [engine for engine in self._engines if restriction.admits_engine(engine.name)]
        names = tuple(engine.name for engine in engines)
        tell(Step("searching", queries, names))
        notes: list[Note] = []
        if self._extractor is not None and not all(isinstance(engine, LocalEngine) for engine in engines):
            self._extractor.warm()
        asked = [(engine, query) for query in queries for engine in engines]
        rankings = await asyncio.gather(
            *(self._ask(engine, query, k, restriction, seconds, notes) for engine, query in asked)
        )
        sources = [source for source in merge(rankings) if restriction.admits(source.url)][:k]
        unread = sum(source.text is None for source in sources)
        if self._extractor is not None and unread:
            tell(Step("reading", pages=unread))
            deadline = asyncio.get_running_loop().time() + reading_seconds
            query = " ".join(queries)
            sources = list(await asyncio.gather(*(self._read(source, query, deadline, notes) for source in sources)))
        sources = [sources[place] for place in distinct([source.text or source.snippet for source in sources])]
        if not sources:
            where = ", ".join(names) or "no engine is set up"
            notes.append(Note("nothing_found", where, f"nothing found ({where})"))
        return SearchResult(queries, tuple(sources), tuple(dict.fromkeys(notes)))

    async def _ask(
        self,
        engine: SearchEngine,
        query: str,
        k: int,
        restriction: Restriction,
        seconds: float,
        notes: list[Note],
    ) -> list[Source]:
        if not isinstance(engine, LocalEngine):
            query = restriction.query(query)
        try:
            async with asyncio.timeout(seconds):
                return await engine.search(query, k, language_of(query))
        except TimeoutError:
            notes.append(Note("engine_slow", engine.name, f"{engine.name} did not answer within {seconds:g} s"))
        except SearchError as error:
            notes.append(Note("engine_failed", engine.name, f"{engine.name} failed: {error}"))
        return []

    async def _read(self, source: Source, query: str, deadline: float, notes: list[Note]) -> Source:
        if source.text is not None or self._extractor is None:
            return source
        try:
            async with asyncio.timeout_at(deadline):
                page = await fetch(source.url, allow_private=is_named(source.url, self._private_origins))
                extract = await asyncio.to_thread(read_page, page, self._extractor)
        except (SearchError, TimeoutError) as error:
            why = str(error) or "reading took too long"
            notes.append(Note("page_unread", source.url, f"{source.url} could not be read, its snippet is used: {why}"))
            return source
        published = source.published or extract.published
        return replace(source, text=best_passage(query, extract, self._vectors), published=published)


def read_page(page: Page, extractor: Extractor) -> Extract:
    """Title and text of a page of any kind that `fetch` reads. Raises ExtractionError."""
    if page.content_type in ("text/html", "application/xhtml+xml"):
        return extractor.extract(page.text)
    return Extract(clean_title(page.url), clean(page.text))


def best_passage(query: str, extract: Extract, vectors: WordVectors | None = None) -> str:
    """The part of a page that fits the question best, its beginning where none does."""
    with Index(None, vectors) as index:
        index.add(Document("page:", extract.title, extract.text))
        found = index.search(query, 1)
    return found[0].text if found else extract.text[:1000]


def merge(rankings: Sequence[Sequence[Source]]) -> list[Source]:
    """One order of all sources, each page or passage once; of doubles the one that was read is kept, else the first."""
    kept: dict[str, Source] = {}
    for source in (source for ranking in rankings for source in ranking):
        key = _same_page(source)
        if key not in kept or (kept[key].text is None and source.text is not None):
            kept[key] = source
    return [kept[key] for key in fuse([[_same_page(source) for source in ranking] for ranking in rankings])]


def _same_page(source: Source) -> str:
    if source.passage is not None:
        return source.passage
    return (
        source.url.partition("#")[0].rstrip("/").removeprefix("https://").removeprefix("http://").removeprefix("www.")
    )
