"""Search engines behind one face: own documents, SearXNG, Brave, Tavily, Bing, ddgs."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

from fathom.search.addresses import is_named, parse_url
from fathom.search.cleaning import clean
from fathom.search.errors import BlockedAddressError, EngineError
from fathom.search.extracts import clean_title
from fathom.search.fetching import fetch_json
from fathom.search.index import Index


@dataclass(frozen=True, slots=True)
class Source:
    """A document that may answer: `snippet` is what the engine shows of it, `text` the passage where it was read.

    `passage` names the place of the text inside the document (`document#first-last`) and `section` its part
    ("page 3"), for own documents.
    """

    url: str
    title: str
    snippet: str
    engine: str
    text: str | None = None
    published: str | None = None
    passage: str | None = None
    section: str | None = None


class SearchEngine(Protocol):
    """Anything that can be asked. Raises SearchError where it fails; the search goes on without it."""

    @property
    def name(self) -> str:
        """A short name for people."""

    async def search(self, query: str, k: int, lang: str) -> list[Source]:
        """At most `k` sources, best first; `lang` is the question's language ("zh", "en")."""


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """The user's own documents; nothing leaves the machine."""

    index: Index
    name: str = "own documents"

    async def search(self, query: str, k: int, lang: str) -> list[Source]:  # noqa: ARG002 - documents of any language
        """Passages of the index."""
        found = await asyncio.to_thread(self.index.search, query, k)
        return [
            Source(one.url, one.title, one.text[:300], self.name, one.text, one.published, one.id, one.section)
            for one in found
        ]


@dataclass(frozen=True, slots=True)
class SearxngEngine:
    """An instance of SearXNG that the user named (https://docs.searxng.org/dev/search_api.html), wherever it is."""

    url: str
    private_origins: frozenset[str] = frozenset()
    name: str = "searxng"

    async def search(self, query: str, k: int, lang: str) -> list[Source]:
        """`GET /search?format=json`; the instance must allow that format."""
        parameters = urlencode({"q": query, "format": "json", "language": lang, "safesearch": "1"})
        reply = await fetch_json(f"{self.url.rstrip('/')}/search?{parameters}", allow_private=True)
        private = self.private_origins
        return _sources(
            reply, ("results",), self.name, k, snippet="content", published="publishedDate", private=private
        )


@dataclass(frozen=True, slots=True)
class BraveEngine:
    """Brave's search API (https://api-dashboard.search.brave.com/app/documentation/web-search)."""

    key: str
    url: str = "https://api.search.brave.com"
    name: str = "brave"
    allow_private: bool = False

    async def search(self, query: str, k: int, lang: str) -> list[Source]:
        """`GET /res/v1/web/search`, at most 20 results."""
        language = "zh-hans" if lang == "zh" else lang
        parameters = urlencode({"q": query[:400], "count": min(k, 20), "search_lang": language})
        address = f"{self.url}/res/v1/web/search?{parameters}"
        headers = {"X-Subscription-Token": self.key}
        reply = await fetch_json(address, headers=headers, allow_private=self.allow_private)
        return _sources(reply, ("web", "results"), self.name, k, snippet="description", published="page_age")


@dataclass(frozen=True, slots=True)
class TavilyEngine:
    """Tavily's search API (https://docs.tavily.com/documentation/api-reference/endpoint/search)."""

    key: str
    url: str = "https://api.tavily.com"
    name: str = "tavily"
    allow_private: bool = False

    async def search(self, query: str, k: int, lang: str) -> list[Source]:  # noqa: ARG002 - the API knows no language
        """`POST /search`, at most 20 results."""
        body = {"query": query[:400], "max_results": min(k, 20)}
        headers = {"Authorization": f"Bearer {self.key}"}
        reply = await fetch_json(f"{self.url}/search", headers=headers, body=body, allow_private=self.allow_private)
        return _sources(reply, ("results",), self.name, k, snippet="content", published="published_date")


@dataclass(frozen=True, slots=True)
class BingEngine:
    """Bing's web search API, version 7, or a service of the same form at another `url`.

    Source: https://learn.microsoft.com/en-us/bing/search-apis/bing-web-search/reference/endpoints.
    """

    key: str
    url: str = "https://api.bing.microsoft.com"
    name: str = "bing"
    allow_private: bool = False

    async def search(self, query: str, k: int, lang: str) -> list[Source]:
        """`GET /v7.0/search`, at most 50 results."""
        market = {"zh": "zh-CN", "ar": "ar-SA"}.get(lang, "en-US")
        parameters = urlencode({"q": query[:400], "count": min(k, 50), "mkt": market, "safeSearch": "Moderate"})
        headers = {"Ocp-Apim-Subscription-Key": self.key}
        address = f"{self.url.rstrip('/')}/v7.0/search?{parameters}"
        reply = await fetch_json(address, headers=headers, allow_private=self.allow_private)
        # Where nothing is found there is no list of pages at all.
        if isinstance(reply, Mapping) and "webPages" not in reply and reply.get("_type") == "SearchResponse":
            return []
        return _sources(
            reply, ("webPages", "value"), self.name, k, title="name", snippet="snippet", published="datePublished"
        )


@dataclass(frozen=True, slots=True)
class DdgsEngine:
    """The `ddgs` package, which reads the result pages of public engines: no key, and no promise that it works.

    It fetches by itself, from engines only; what it finds is read by our own fetcher like everything else.
    """

    url: str = ""
    name: str = "ddgs"

    async def search(self, query: str, k: int, lang: str) -> list[Source]:
        """Titles, addresses and snippets. Raises EngineError where the package is not installed or finds nothing."""
        try:
            from ddgs import DDGS
            from ddgs.exceptions import DDGSException
        except ImportError as error:
            raise EngineError("ddgs is not installed: pip install 'fathom-llm[websearch]'") from error
        region = {"zh": "cn-zh", "ar": "xa-ar"}.get(lang, "us-en")

        def ask() -> list[dict[str, Any]]:
            return DDGS(timeout=8).text(query, region=region, max_results=k)

        try:
            found = await asyncio.to_thread(ask)
        except DDGSException as error:
            raise EngineError(str(error)) from error
        return _sources({"results": found}, ("results",), self.name, k, url="href", snippet="body", published="date")


def _sources(
    reply: Any,
    path: tuple[str, ...],
    engine: str,
    k: int,
    *,
    snippet: str,
    published: str,
    url: str = "url",
    title: str = "title",
    private: frozenset[str] = frozenset(),
) -> list[Source]:
    """Results that a reply holds; those without a URL that may be opened are left out. Raises EngineError."""
    for key in path:
        reply = reply.get(key) if isinstance(reply, Mapping) else None
    if not isinstance(reply, list):
        raise EngineError(f"{engine} answered without {'.'.join(path)}: is the address that of its API?")
    found: list[Source] = []
    for row in reply:
        address = _openable(row.get(url), private) if isinstance(row, Mapping) else None
        if address is not None:
            day = _text(row, published)[:10] or None
            name = clean_title(_text(row, title)) or address
            found.append(Source(address, name, clean(_text(row, snippet)), engine, published=day))
    return found[:k]


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return value if isinstance(value, str) else ""


def _openable(url: object, private: frozenset[str]) -> str | None:
    try:
        return parse_url(url, any_port=is_named(url, private)).url if isinstance(url, str) else None
    except BlockedAddressError:
        return None
