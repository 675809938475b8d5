"""The page as a thing that is loaded and installed: light, asking nobody else, there without the server."""

from typing import Any

import pytest

pytestmark = pytest.mark.browser


def test_a_first_visit_is_light_and_asks_nobody_else(open_page: Any, app: Any) -> None:
    page = open_page()
    entries = page.evaluate(
        "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
        ".map(entry => [entry.name, entry.transferSize])"
    )
    assert sum(size for _, size in entries) < 300_000
    assert all(name.startswith(app.url) for name, _ in entries)
    assert page.evaluate("performance.getEntriesByName('first-paint').length") == 1


@pytest.mark.slow
def test_the_page_opens_without_the_server_and_keeps_no_chat(own_app: Any, open_any: Any, ask: Any) -> None:
    own_app.start()
    page = open_any(own_app.url, service_workers="allow")
    page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    ask(page, "A secret question")
    kept = """async () => {
        const cache = await caches.open((await caches.keys())[0]);
        return (await cache.keys()).map((request) => new URL(request.url).pathname);
    }"""
    paths = page.evaluate(kept)
    assert "/" in paths
    assert all(path == "/" or path.startswith("/static/") for path in paths)
    own_app.stop()
    page.reload()
    page.get_by_text("The server cannot be reached.").wait_for()
    assert page.get_by_text("A secret question").count() == 0


@pytest.mark.slow
def test_manifest_makes_it_installable(open_page: Any, app: Any) -> None:
    page = open_page()
    manifest = page.evaluate("fetch(document.querySelector('link[rel=manifest]').href).then(answer => answer.json())")
    assert (manifest["display"], manifest["start_url"]) == ("standalone", "/")
    for icon in manifest["icons"]:
        assert page.evaluate("source => fetch(source).then(answer => answer.ok)", icon["src"]), icon["src"]


@pytest.mark.slow
def test_chats_of_the_old_page_move_to_the_server_once(open_any: Any, app: Any) -> None:
    page = open_any(app.url + "/static/logo.svg")
    page.evaluate("""() => new Promise((resolve) => {
        const request = indexedDB.open("fathom", 1);
        request.onupgradeneeded = () => {
            request.result.createObjectStore("chats", {keyPath: "id"}).createIndex("updated", "updated");
        };
        request.onsuccess = () => {
            const created = 1764000000000;
            const transaction = request.result.transaction("chats", "readwrite");
            transaction.objectStore("chats").put({
                id: "old", title: "An old chat", created, updated: created, leaf: "b", messages: [
                    {id: "a", parent: null, role: "user", content: "Old question", created},
                    {id: "b", parent: "a", role: "assistant", content: "Old answer", status: "done", created},
                ],
            });
            transaction.oncomplete = () => { request.result.close(); resolve(); };
        };
    })""")
    for visit in range(2):
        page.goto(app.url)
        if visit == 0:
            page.get_by_role("button", name="Show chats").click()
        page.get_by_role("button", name="An old chat", exact=True).wait_for()
    assert len(app.call("GET", "chats")["chats"]) == 1
    page.get_by_role("button", name="An old chat", exact=True).click()
    page.get_by_text("Old answer").wait_for()
