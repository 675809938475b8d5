"""`fathom search`: the sources that an answer would be given from."""

import argparse
import asyncio
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from fathom.cli.index import index_path
from fathom.cli.searching import engine_settings
from fathom.cli.settings import resolve
from fathom.cli.terminal import answer, answer_json, bold, dim, note

if TYPE_CHECKING:
    from fathom.search.searching import SearchResult

DESCRIPTION = (
    "Search your own documents (`fathom index add`), and the web where an engine is named: --searxng URL, or "
    "FATHOM_SEARXNG_URL, FATHOM_BRAVE_KEY, FATHOM_TAVILY_KEY, FATHOM_BING_KEY, FATHOM_KEYLESS=ddgs. Without one "
    "nothing leaves this machine."
)
_REFRESHING_SECONDS = 3.0
EXAMPLE = 'fathom search "light dinners with lentils"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The question and how much of it."""
    parser.add_argument("query", help="what to look for")
    parser.add_argument("-k", type=int, default=8, metavar="N", help="most sources (default 8)")
    parser.add_argument("--searxng", metavar="URL", help="an instance of SearXNG that allows format=json")
    parser.add_argument("--local", action="store_true", help="own documents only, whatever the environment names")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Search and print; 1 where nothing was found."""
    from fathom.search.configured import EngineSettings, web_engines
    from fathom.search.engines import LocalEngine
    from fathom.search.extraction import Extractor
    from fathom.search.index import Index
    from fathom.search.searching import Searcher
    from fathom.server.word_vectors import stored_word_vectors

    settings = resolve({"searxng_url": arguments.searxng})
    chosen = EngineSettings() if arguments.local else engine_settings(settings)
    vectors = stored_word_vectors()
    with Index(index_path(), vectors) as index, Extractor() as extractor:
        engines = [LocalEngine(index), *web_engines(chosen)]
        searcher = Searcher(engines, extractor=extractor, private_origins=chosen.private_origins, vectors=vectors)
        progress = None if arguments.json else lambda step: note(str(step))
        result = asyncio.run(searcher.search(arguments.query, k=arguments.k, progress=progress))
        is_empty = not index.roots()
    if arguments.json:
        answer_json(_as_dict(result))
    else:
        _show(result)
    if not result.sources and is_empty:
        note("Your index is empty: `fathom index add DIR` reads a folder of yours")
    return 0 if result.sources else 1


def _as_dict(result: "SearchResult") -> dict[str, object]:
    sources = [{"number": number, **asdict(source)} for number, source in enumerate(result.sources, start=1)]
    notes = [asdict(note) for note in result.notes]
    return {"queries": list(result.queries), "sources": sources, "notes": notes}


def _show(result: "SearchResult") -> None:
    for number, source in enumerate(result.sources, start=1):
        answer(bold(f"{number}. {source.title}", sys.stdout) + (f"  {source.published}" if source.published else ""))
        answer(dim(f"   {source.url}", sys.stdout))
        answer("   " + " ".join((source.text or source.snippet).split())[:240])
    for line in result.notes:
        note(str(line))
