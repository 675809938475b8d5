"""Search as people see it: progress, sources, citations that open at the passage, doubtful ones, nothing found."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from fathom.search.configured import EngineSettings
from fathom.search.index import Document
from fathom.server.searching import SearchService

pytestmark = pytest.mark.browser

PAGE = "<title>{title}</title><article><p>{text} It is told at some length, so that it reads as a page.</p></article>"
HOSTILE = '<img src=x onerror="window.pwned=1">'


@pytest.fixture
def searching(own_app: Any, site: Any, tmp_path: Any) -> Iterator[Any]:
    """The app with own documents, a SearXNG-shaped server and the website it finds, all on this machine."""
    settings = EngineSettings(searxng_url=site.url, private_origins=frozenset({site.url}))
    own_app.search = SearchService(settings, tmp_path / "index.sqlite3")
    own_app.search.index.add(
        Document("file:///recipes/soup.md", "Grandma's soup", "Red lentils cook in twenty minutes.")
    )
    found = {
        "url": f"{site.url}/lentils",
        "title": "Green lentils",
        "content": "lentils",
        "publishedDate": "2026-01-02T00:00:00",
    }
    hostile = {"url": f"{site.url}/hostile", "title": HOSTILE, "content": HOSTILE}
    site.json("/search", {"results": [found, hostile]})
    site.html("/lentils", PAGE.format(title="Green lentils", text="Green lentils cook in thirty minutes."))
    site.html("/hostile", PAGE.format(title="x", text=HOSTILE))
    own_app.start()
    yield own_app
    own_app.stop()
    own_app.search.close()


def test_sources_and_citations(searching: Any, open_any: Any, ask: Any) -> None:
    page = open_any(searching.url)
    toggle = page.get_by_role("button", name="Search")
    toggle.click()
    assert toggle.get_attribute("aria-pressed") == "true"
    ask(page, "cite how long lentils cook")
    answer = page.get_by_role("article", name="assistant")
    answer.get_by_role("button", name=re.compile(r"Found \d sources")).wait_for()
    links = answer.locator("> .prose").get_by_role("link")
    assert links.count() == 2, "a number without a source is no link"
    first, second = links.all()
    assert (first.inner_text(), second.inner_text()) == ("1", "2")
    assert "does not seem to support" not in first.get_attribute("aria-label")
    assert "does not seem to support" in second.get_attribute("aria-label")
    first.click()
    panel = page.get_by_role("complementary", name="Sources")
    current = panel.locator(".source.current")
    assert current.locator("mark").all_inner_texts()[:2] == ["lentils", "cook"] or current.locator("mark").count() > 0
    assert current.evaluate("e => e === document.activeElement")
    page.keyboard.press("Escape")
    assert panel.is_hidden()
    assert first.evaluate("e => e === document.activeElement")
    page.reload()
    answer.get_by_role("button", name=re.compile(r"Found \d sources")).click()
    panel.get_by_role("heading", name="Green lentils").wait_for()
    panel.get_by_text("Jan 2, 2026").or_(panel.get_by_text("2 Jan 2026")).first.wait_for()
    panel.get_by_role("button", name="Show what stands around it").click()
    panel.locator(".passage mark", has_text="Red lentils").wait_for()
    with page.expect_popup() as popup:
        panel.get_by_role("link", name="Grandma's soup").click()
    popup.value.locator("mark", has_text="Red lentils").wait_for()
    assert page.evaluate("window.pwned") is None
    assert page.locator("img[src=x]").count() == 0


def test_nothing_found_is_said(searching: Any, site: Any, open_any: Any, ask: Any) -> None:
    site.json("/search", {"results": []})
    page = open_any(searching.url)
    page.get_by_role("button", name="Search").click()
    ask(page, "Xylophonists?")
    page.get_by_text("Nothing was found. The answer comes from the model alone.").wait_for()
    page.get_by_text("Hello world!").wait_for()


def test_the_badge_names_who_learns_what_is_looked_for(searching: Any, open_any: Any) -> None:
    page = open_any(searching.url)
    badge = page.locator(".badge")
    badge.get_by_text("On this machine").wait_for()
    show = """async ([data, searches]) => {
        const { Badge } = await import("/static/js/where.js");
        const badge = new Badge();
        badge.show(data, searches);
        return [badge.element.innerText || badge.element.textContent, badge.element.title];
    }"""
    engines = [
        {"engine": "own documents", "where": "machine", "host": None},
        {"engine": "brave", "where": "web", "host": "brave.example"},
    ]
    machine = {"model": {"where": "machine", "host": None}, "search": engines}
    assert page.evaluate(show, [machine, False])[0] == "On this machine"
    words, hint = page.evaluate(show, [machine, True])
    assert words == "On this machinebrave.example"
    assert hint.endswith("what is looked for goes to brave.example.")
    upstream = {"model": {"where": "web", "host": "api.example"}, "search": []}
    assert page.evaluate(show, [upstream, False])[0] == "Via api.example"
