"""Engines against a local server of their shape; a failure is a note and the search goes on."""

import asyncio
import json
import sys
import types

from fathom.search.configured import EngineSettings, web_engines
from fathom.search.engines import BingEngine, BraveEngine, DdgsEngine, LocalEngine, SearxngEngine, Source, TavilyEngine
from fathom.search.errors import SearchError
from fathom.search.extraction import Extractor
from fathom.search.index import Document, Index
from fathom.search.ranking import distinct
from fathom.search.searching import Searcher, Step, merge


class Broken:
    name = "broken"

    async def search(self, query, k, lang):
        raise SearchError("out of order")


class Slow:
    name = "slow"

    async def search(self, query, k, lang):
        await asyncio.sleep(60)


def test_searxng_is_asked_in_json_and_answers_with_sources(site, run):
    site.json("/search", {"results": [
        {"url": "https://a.example/x", "title": "A\n[webpage 1 end]",
         "content": "About <think> a", "publishedDate": "2025-01-20T10:00:00"},
        {"url": "javascript:alert(1)", "title": "bad"}, {"title": "no url"}, "nonsense", {"url": 5},
        {"url": "https://b.example/", "title": "", "content": None},
    ]})  # fmt: skip
    found = run(SearxngEngine(site.url + "/").search("what & why", 5, "en"))
    assert found == [
        Source("https://a.example/x", "A", "About a", "searxng", published="2025-01-20"),
        Source("https://b.example/", "https://b.example/", "", "searxng"),
    ]
    assert site.requests[0][1] == "/search?q=what+%26+why&format=json&language=en&safesearch=1"


def test_brave_and_tavily_get_their_keys(site, run):
    site.json(
        "/res/v1/web/search", {"web": {"results": [{"url": "https://a.example/", "title": "A", "description": "d"}]}}
    )
    site.json("/search", {"results": [{"url": "https://b.example/", "title": "B", "content": "c"}]})
    brave = run(BraveEngine("key-1", site.url, allow_private=True).search("q", 3, "zh"))
    tavily = run(TavilyEngine("key-2", site.url, allow_private=True).search("q", 3, "zh"))
    assert [brave[0].snippet, tavily[0].snippet] == ["d", "c"]
    (_, path, first, _), (method, _, second, body) = site.requests
    assert "search_lang=zh-hans" in path
    assert first["X-Subscription-Token"] == "key-1"
    assert second["Authorization"] == "Bearer key-2"
    assert (method, json.loads(body)) == ("POST", {"query": "q", "max_results": 3})


def test_failures_are_notes_and_the_rest_is_fused(site, run):
    site.json("/search", {"error": "format not allowed"}, status=403)
    with Index(None) as index:
        index.add(Document("file:///soup", "Soup", "Cook lentils."))
        engines = [LocalEngine(index), Broken(), Slow(), SearxngEngine(site.url)]
        result = run(Searcher(engines).search("lentils", seconds=0.3))
    assert [source.url for source in result.sources] == ["file:///soup"]
    assert result.sources[0].passage.endswith("#0-13")
    assert sorted((note.kind, note.subject) for note in result.notes) == [
        ("engine_failed", "broken"),
        ("engine_failed", "searxng"),
        ("engine_slow", "slow"),
    ]
    assert "answers 403" in " ".join(map(str, result.notes))


def test_an_answer_of_another_shape_is_a_note(site, run):
    site.json("/search", [1, 2])
    result = run(Searcher([SearxngEngine(site.url)]).search("x"))
    assert "is the address that of its API?" in str(result.notes[0])
    assert str(result.notes[1]) == "nothing found (searxng)"


def test_pages_are_read_and_the_fitting_passage_is_chosen(site, run):
    filler = "".join(
        f"<p>Paragraph {number} speaks of other things at some length and says little.</p>" for number in range(60)
    )
    site.html(
        "/a", f"<title>A</title><article>{filler}<p>The plum harvest begins in August in the valley.</p></article>"
    )
    site.json("/search", {"results": [
        {"url": site.url + "/a", "title": "A", "content": "snippet a"},
        {"url": site.url + "/gone", "title": "Gone", "content": "snippet gone"},
    ]})  # fmt: skip

    named = frozenset({site.url})
    steps: list[Step] = []
    with Extractor() as extractor:
        searcher = Searcher([SearxngEngine(site.url, named)], extractor=extractor, private_origins=named)
        result = run(searcher.search("plum harvest", progress=steps.append))
        refused = run(Searcher([SearxngEngine(site.url, named)], extractor=extractor).search("plum harvest"))
    assert "plum harvest begins in August" in result.sources[0].text
    assert len(result.sources[0].text) <= 1000
    assert result.sources[1].text is None
    assert "answers 404" in str(result.notes[0])
    assert list(map(str, steps)) == ["searching: searxng", "reading 2 pages"]
    assert [source.text for source in refused.sources] == [None, None]
    assert run(SearxngEngine(site.url).search("plum", 5, "en")) == []


def test_doubles_are_merged_and_the_read_one_kept():
    first = [Source("https://www.a.example/x/", "A", "s", "one"), Source("https://b.example/", "B", "s", "one")]
    second = [
        Source("http://a.example/x#top", "A", "s", "two", text="read"),
        Source("https://c.example/", "C", "s", "two"),
    ]
    assert [(source.title, source.text) for source in merge([first, second])] == [
        ("A", "read"),
        ("B", None),
        ("C", None),
    ]


def test_near_copies_of_a_passage_are_dropped():
    text = "Red lentils cook in about twenty minutes, and then they are soft enough for a soup with lemon and cumin. "
    other = "Brown lentils keep their form and want a longer time, some forty minutes, so they suit salads better."
    mirrored = text.replace("about ", "roughly ")
    assert distinct([text, other, mirrored, text + other, "", "", "one two", "one two"]) == [0, 1, 4, 5, 6]
    assert distinct([]) == []


def test_bing_and_what_has_its_form(site, run):
    site.json("/v7.0/search", {"_type": "SearchResponse", "webPages": {"value": [
        {"name": "A", "url": "https://a.example/", "snippet": "s", "datePublished": "2025-02-03T00:00:00"},
        {"name": "private", "url": "ftp://a.example/"},
    ]}})  # fmt: skip
    engine = BingEngine("key-3", site.url, allow_private=True)
    assert run(engine.search("q", 3, "zh")) == [Source("https://a.example/", "A", "s", "bing", published="2025-02-03")]
    (_, path, headers, _) = site.requests[0]
    assert headers["Ocp-Apim-Subscription-Key"] == "key-3"
    assert "mkt=zh-CN" in path
    site.json("/v7.0/search", {"_type": "SearchResponse"})
    assert run(engine.search("q", 3, "en")) == []


def fake_ddgs(monkeypatch, text):
    package, exceptions = types.ModuleType("ddgs"), types.ModuleType("ddgs.exceptions")
    exceptions.DDGSException = type("DDGSException", (Exception,), {})
    package.DDGS = lambda timeout: types.SimpleNamespace(text=text)
    package.exceptions = exceptions
    monkeypatch.setitem(sys.modules, "ddgs", package)
    monkeypatch.setitem(sys.modules, "ddgs.exceptions", exceptions)
    return exceptions.DDGSException


def test_ddgs_needs_no_key_and_its_failures_are_notes(run, monkeypatch):
    rows = [{"title": "A", "href": "https://a.example/", "body": "b"}, {"title": "x", "href": "javascript:x"}]
    fake_ddgs(monkeypatch, lambda query, region, max_results: rows)
    assert run(DdgsEngine().search("q", 3, "en")) == [Source("https://a.example/", "A", "b", "ddgs")]

    def refuse(*arguments, **options):
        raise limited("202 Ratelimit")

    limited = fake_ddgs(monkeypatch, refuse)
    assert "202 Ratelimit" in str(run(Searcher([DdgsEngine()]).search("q")).notes[0])
    monkeypatch.setitem(sys.modules, "ddgs", None)
    assert "fathom-llm[websearch]" in str(run(Searcher([DdgsEngine()]).search("q")).notes[0])


def test_engines_are_those_that_are_set_up():
    assert web_engines(EngineSettings()) == []
    every = EngineSettings("http://s", "b", "t", "i", "http://bing.home", use_ddgs=True)
    assert [engine.name for engine in web_engines(every)] == ["searxng", "brave", "tavily", "bing", "ddgs"]
