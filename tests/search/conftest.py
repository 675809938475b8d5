"""A resolver and connections that never reach a wire, and small servers on the loopback."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpcore
import pytest

from fathom.search import fetching

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Wire:
    """What names stand for, what is answered at an address, and what was dialled."""

    names: dict[str, list[list[str]]] = field(default_factory=dict)
    responses: list[bytes] = field(default_factory=list)
    resolved: list[str] = field(default_factory=list)
    dialled: list[tuple[str, int]] = field(default_factory=list)

    def respond(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.responses.append(f"HTTP/1.1 {status} x\r\n{head}Connection: close\r\n\r\n".encode() + body)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire = Wire()

    async def resolve(host: str, port: int) -> list[str]:
        wire.resolved.append(host)
        answers = wire.names.get(host, [[host]])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def dial(address: str, port: int, *rest: object) -> httpcore.AsyncNetworkStream:
        wire.dialled.append((address, port))
        return httpcore.AsyncMockStream([wire.responses.pop(0)])

    monkeypatch.setattr(fetching, "resolve", resolve)
    monkeypatch.setattr(fetching, "dial", dial)
    return wire


@dataclass
class Site:
    """A server on the loopback: `pages` by path; `requests` are (method, path, headers, body)."""

    url: str
    pages: dict[str, Answer | Callable[[BaseHTTPRequestHandler], None]]
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


@pytest.fixture
def run() -> Callable[[Any], Any]:
    return asyncio.run
