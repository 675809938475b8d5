"""Search for the commands that answer: what is set up, and an answer with its sources on the terminal."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fathom.cli.errors import CommandError
from fathom.cli.index import index_path
from fathom.cli.settings import Settings
from fathom.cli.terminal import answer, note

if TYPE_CHECKING:
    from fathom.engine import Engine
    from fathom.engine.request import EngineEvent
    from fathom.search.configured import EngineSettings
    from fathom.server.searched import Cited
    from fathom.server.searching import Found, SearchService
    from fathom.text import Message


def engine_settings(settings: Settings) -> "EngineSettings":
    """The engines of the web that the settings name."""
    from fathom.search.configured import EngineSettings

    keyless = settings["keyless"]
    unknown = sorted(set(keyless) - {"ddgs"})
    if unknown:
        raise CommandError(f"keyless: there is no engine {unknown[0]!r}; the one that needs no key is ddgs", code=2)
    return EngineSettings(
        searxng_url=settings["searxng_url"],
        brave_key=settings["brave_key"],
        tavily_key=settings["tavily_key"],
        bing_key=settings["bing_key"],
        bing_url=settings["bing_url"],
        use_ddgs="ddgs" in keyless,
        private_origins=frozenset(settings["private_origins"]),
    )


def search_service(settings: Settings) -> "SearchService":
    """The machine's search as the settings have it."""
    from fathom.server.searching import SearchService

    documents_for = frozenset(settings["documents_for"])
    return SearchService(engine_settings(settings), index_path(), documents_for=documents_for)


def find(search: "SearchService", engine: "Engine", messages: "Sequence[Message]") -> "Found":
    """Search for the last message, with its steps and notes on stderr."""
    import asyncio

    found = asyncio.run(search.find(engine, messages, lambda step: note(str(step))))
    for one in found.notes:
        note(str(one))
    return found


def answer_events(
    engine: "Engine", messages: "Sequence[Message]", found: "Found | None", **options: Any
) -> "Iterator[EngineEvent | Cited]":
    """The events of an answer, given from what was `found` where there was a search."""
    if found is None:
        yield from engine.stream(messages, **options)
        return
    from fathom.server.searched import CitedAnswer

    resolving = CitedAnswer(found.sources, opening=found.opening)
    for event in engine.stream(found.messages, **options):
        yield from resolving.take(event)


def show_sources(found: "Found | None", cited: "Cited | None") -> None:
    """The list that the marks of an answer point to; what was read and not cited is only counted."""
    if found is None:
        return
    numbers = list(cited.cited) if cited is not None else []
    doubtful = {one.number for one in cited.unsupported} if cited is not None else set()
    for number, source in enumerate(numbers, start=1):
        doubt = "  (a sentence that cites it shares no word with it)" if number in doubtful else ""
        answer(f"[{number}] {found.sources[source].title}  {found.sources[source].url}{doubt}")
    unused = len(found.sources) - len(numbers)
    if unused:
        note(f"{unused} more source{'s' if unused > 1 else ''} found and not cited")
