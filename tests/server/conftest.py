"""A scripted engine with the real one's face, and a real server around it on a free port of the loopback."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn

from fathom.engine import EngineLimits, EngineStats, Finished, GenerationDefaults, Request, Ticket, Timings, Usage
from fathom.engine.errors import PromptTooLongError
from fathom.engine.stats import Counts, Load
from fathom.server.accounts.accounts import Accounts
from fathom.server.api import create_app
from fathom.server.config import ServerConfig
from fathom.server.listen import TimedProtocol
from fathom.server.searching import SearchService
from fathom.server.service import Service
from fathom.text import Answer, Grammar, GrammarError, Message, MessageError, Prompt, TemplateError, Thought
from fathom.text.parser.formats import CallFormat

Script = Callable[[Request], Sequence[Any]]


def words(request: Request) -> Sequence[Any]:
    """The default script: a thought when asked for one, then the prompt's words back."""
    thought = [Thought("Let me "), Thought("think.")] if request.prompt.channel == "thought" else []
    return [*thought, *(Answer(f"{word} ") for word in request.prompt.text.split())]


class ScriptedTokenizer:
    """One token a character."""

    bos_id = None
    add_bos = False

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def token_bytes(self, token: int) -> bytes:
        return chr(token).encode()

    def control_id(self, token: str) -> int | None:
        return None

    def id_of(self, token: str) -> int | None:
        return {"<fim_prefix>": 1, "<fim_suffix>": 2, "<fim_middle>": 3}.get(token)


class ScriptedTemplate:
    """The last user message is the prompt."""

    name = "scripted"
    thinks = True
    call_format = CallFormat.HERMES

    def __init__(self) -> None:
        self.rendered: list[tuple[list[Message], list[Any], bool]] = []

    def render(self, messages: Sequence[Message], *, tools: Sequence[Any] = (), thinking: bool = False) -> Prompt:
        self.rendered.append((list(messages), list(tools), thinking))
        if any(message.content == "TEMPLATE FAILS" for message in messages):
            raise TemplateError("this dialect cannot do that: ask differently")
        if any(message.content == "MESSAGE FAILS" for message in messages):
            raise MessageError("messages", 0, "content", "is not good")
        text = messages[-1].content or ""
        return Prompt([ord(character) for character in text], text, "thought" if thinking else "answer")


@dataclass(eq=False)
class ScriptedTicket(Ticket):
    """Remembers when it was cancelled."""

    request: Request
    cancelled: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    answers_now: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)

    def position(self) -> int:
        return 0 if self.begun.is_set() else 3

    def answer_now(self) -> None:
        self.answers_now.set()

    def cancel(self) -> None:
        self.cancelled.set()


class ScriptedEngine:
    """Plays a script from a thread for each request. `hold` keeps it before the first event until set."""

    def __init__(self) -> None:
        self.model_name = "scripted:1b"
        self.tokenizer = ScriptedTokenizer()
        self.template = ScriptedTemplate()
        self.runner = SimpleNamespace(name="scripted")
        self.defaults = GenerationDefaults()
        self.max_tokens = 8192
        self.thought_bound: int | None = None
        self.config = None
        self.script: Script = words
        self.reason = "stop"
        self.pause = 0.0
        self.hold = threading.Event()
        self.hold.set()
        self.refuse: Exception | None = None
        self.tickets: list[ScriptedTicket] = []
        self.closed = False

    def render(self, messages: Sequence[Message], *, tools: Sequence[Any] = (), thinking: bool = False) -> Prompt:
        return self.template.render(messages, tools=tools, thinking=thinking)

    def plain_prompt(self, prompt: str | Sequence[int]) -> Prompt:
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        return Prompt(ids, prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt), "answer")

    def constrain(self, grammar: Grammar) -> Any:
        if "uniqueItems" in grammar.source:
            raise GrammarError("the schema cannot be followed: Unimplemented keys")
        return SimpleNamespace(grammar=grammar)

    def submit(self, request: Request, on_event: Callable[[Any], None]) -> ScriptedTicket:
        if self.refuse is not None:
            raise self.refuse
        if len(request.prompt.ids) >= self.max_tokens:
            raise PromptTooLongError(f"the prompt has {len(request.prompt.ids)} tokens: shorten it")
        ticket = ScriptedTicket(request)
        self.tickets.append(ticket)
        threading.Thread(target=self._play, args=(ticket, on_event), daemon=True).start()
        return ticket

    def _play(self, ticket: ScriptedTicket, on_event: Callable[[Any], None]) -> None:
        while not self.hold.wait(0.01) and not ticket.cancelled.is_set():
            pass
        ticket.begun.set()
        thought = count = 0
        for event in self.script(ticket.request):
            if ticket.cancelled.is_set():
                break
            if isinstance(event, Thought) and ticket.answers_now.is_set():
                continue
            time.sleep(self.pause)
            on_event(event)
            count += isinstance(event, Thought | Answer)
            thought += isinstance(event, Thought)
        reason = "cancelled" if ticket.cancelled.is_set() else self.reason
        usage = Usage(len(ticket.request.prompt.ids), 0, count, thought)
        on_event(
            Finished(reason, usage, Timings(0.0, 0.0, 0.0, None, None), error="scripted" if reason == "error" else None)
        )
        ticket.over.set()

    def stats(self) -> EngineStats:
        running = sum(not ticket.over.is_set() for ticket in self.tickets)
        load = Load(True, None, running, 0, 0, 8, running, 0, 0, Counts(drafts=3, drafted_tokens=12, accepted_tokens=9))
        return EngineStats(
            self.model_name, "scripted", self.max_tokens, 64, 1024, {"runner": "scripted"}, EngineLimits(), load
        )

    def close(self) -> None:
        self.closed = True


@dataclass
class Running:
    """A server that answers, its engine, and how to reach it."""

    url: str
    engine: ScriptedEngine
    service: Service
    config: ServerConfig
    loop: asyncio.AbstractEventLoop

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20, trust_env=False, **options)

    def chat(self, **fields: Any) -> httpx.Response:
        body = {"model": "deepseek-chat", "messages": [{"role": "user", "content": "hello there"}], **fields}
        with self.client() as client:
            return client.post("/chat/completions", json=body)


Start = Callable[..., Running]


@pytest.fixture
def start(free_port: Callable[[], int]) -> Iterator[Start]:
    """Starts servers; each is stopped at the end of the test."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start_server(
        engine: Any = None,
        *,
        load: Callable[[Any], Any] | None = None,
        wait: bool = True,
        accounts: Accounts | None = None,
        search: SearchService | None = None,
        **options: Any,
    ) -> Running:
        engine = engine or ScriptedEngine()
        config = replace(ServerConfig(port=free_port()), **options)
        service = Service(load or (lambda progress: engine), engine.model_name, accounts, search)
        settings = uvicorn.Config(
            create_app(service, config),
            host="127.0.0.1",
            port=config.port,
            http=TimedProtocol,
            log_config=None,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=config.max_header_bytes,
        )
        server = uvicorn.Server(settings)
        loop = asyncio.new_event_loop()

        def run() -> None:
            try:
                loop.run_until_complete(server.serve())
            finally:
                loop.close()  # left to the garbage collector, it fails there, and in whichever test that happens to run

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        running.append((server, thread))
        deadline = time.monotonic() + 10
        while not (server.started and (service.state != "loading" or not wait)):
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.005)
        return Running(f"http://127.0.0.1:{config.port}", engine, service, config, loop)

    yield start_server
    for server, thread in running:
        server.should_exit = True
        thread.join(5)


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Gives a port of the loopback that nobody listens on."""
    import socket

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.fixture
def served(start: Start) -> Running:
    """A ready server around a scripted engine."""
    return start()
