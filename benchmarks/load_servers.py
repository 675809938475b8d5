"""The servers that `load.py` asks, each a process of its own that is told over stdin what to do.

    python benchmarks/load_servers.py engine        Fathom on smollm2:135m
    python benchmarks/load_servers.py zero          Fathom on a model that costs nothing and says the question's words
    python benchmarks/load_servers.py plain         a FastAPI server written as vLLM's is, on the same free model

The first line of stdout is the port. Then each line of stdin is a command, answered by one line of JSON:
`cpu` (processor seconds so far: of the process and of its event loop's thread), `bare STREAMS TOKENS` (the engine
alone), `first TIMES` (milliseconds to its first token), `texts STREAMS TOKENS` (what each stream must be told),
`memory` (resident MiB).
"""

import asyncio
import itertools
import json
import statistics
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict

from fathom.checkpoints import open_checkpoint, resolve
from fathom.engine import EngineLimits, EngineStats, Finished, GenerationDefaults, Request, Timings, Usage
from fathom.engine.loading import load, read_template, read_tokenizer
from fathom.engine.stats import Counts, Load
from fathom.server.api import create_app
from fathom.server.config import ServerConfig
from fathom.server.listen import bind, settings
from fathom.server.service import Service
from fathom.text import Answer

MODEL = "smollm2:135m"


def question(number: int) -> str:
    """What stream `number` asks: words of its own, that the free model says back."""
    return f"Stream {number} says {number * 7919 % 1000} and {number * 104729 % 1000}"


def main() -> None:
    kind = sys.argv[1]
    with bind("127.0.0.1", 0) as listener:
        engine = load(MODEL) if kind == "engine" else FreeEngine()
        app, ready = plain_app(engine) if kind == "plain" else fathom_app(engine, listener.getsockname()[1])
        how = uvicorn.Config(app, log_config=None) if kind == "plain" else settings(app, ServerConfig())
        server = uvicorn.Server(how)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started or not ready():
            time.sleep(0.02)
        print(listener.getsockname()[1], flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(engine, thread, line.split())), flush=True)
        server.should_exit = True
        thread.join(5)
    engine.close()


def answer(engine: Any, thread: threading.Thread, command: list[str]) -> Any:
    match command:
        case ["cpu"]:
            clock = time.pthread_getcpuclockid(thread.ident or 0)
            return {"process": time.process_time(), "loop": time.clock_gettime(clock)}
        case ["bare", streams, tokens]:
            return bare(engine, int(streams), int(tokens))
        case ["first", times]:
            return first_tokens(engine, int(times))
        case ["texts", streams, tokens]:
            return [
                engine.generate(question(n), max_tokens=int(tokens), temperature=0, ignore_eos=True).content
                for n in range(int(streams))
            ]
        case ["memory"]:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            return pages * 4096 / 2**20
        case _:
            return {"error": f"unknown command {command}"}


def bare(engine: Any, streams: int, tokens: int) -> dict[str, float]:
    """Tokens per second of so many answers at once from the engine's own events."""
    options = {"max_tokens": tokens, "temperature": 0.7, "ignore_eos": True}
    began, spent = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(streams) as pool:
        done = list(pool.map(lambda n: engine.generate(question(n), seed=n, **options), range(streams)))
    count = sum(one.finished.usage.completion_tokens for one in done)
    return {
        "tokens_per_second": count / (time.perf_counter() - began),
        "cpu_us_per_token": 1e6 * (time.process_time() - spent) / count,
    }


def first_tokens(engine: Any, times: int) -> float:
    """Milliseconds to the first token, the prompt cached; median."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        events = engine.stream(question(0), max_tokens=2, temperature=0, ignore_eos=True)
        next(events)
        took.append(1000 * (time.perf_counter() - began))
        list(events)
    return statistics.median(took)


def fathom_app(engine: Any, port: int) -> tuple[FastAPI, Callable[[], bool]]:
    service = Service(lambda _: engine, engine.model_name)
    return create_app(service, ServerConfig(port=port)), lambda: service.state == "ready"


# A model that costs nothing -------------------------------------------------------------------------------------------


@dataclass(eq=False)
class FreeTicket:
    request: Request
    pieces: Iterator[str]
    on_event: Callable[[Any], None]
    left: int
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True

    def position(self) -> int:
        return 0

    def answer_now(self) -> None:
        """It does not think."""


class FreeEngine:
    """The engine's face without a model: a thread gives each request one word of its own question at each step."""

    def __init__(self) -> None:
        checkpoint = open_checkpoint(resolve(MODEL))
        self.model_name, self.config = "free:0b", checkpoint.config
        self.tokenizer = read_tokenizer(checkpoint)
        self.template = read_template(self.tokenizer)
        self.runner = SimpleNamespace(name="free")
        self.defaults = GenerationDefaults()
        self.max_tokens = 8192
        self.thought_bound = None
        self._running: list[FreeTicket] = []
        self._wake = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def render(self, messages: Any, *, tools: Any = (), thinking: bool = False) -> Any:
        return self.template.render(messages, tools=tools, thinking=thinking)

    def submit(self, request: Request, on_event: Callable[[Any], None]) -> FreeTicket:
        words = request.prompt.text.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0].split()
        ticket = FreeTicket(request, itertools.cycle(words), on_event, request.params.max_tokens or 16)
        with self._wake:
            self._running.append(ticket)
            self._wake.notify()
        return ticket

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._running)
                running = self._running[:]
            for ticket in running:
                self._step(ticket)
            with self._wake:
                self._running = [ticket for ticket in self._running if ticket.left]
            time.sleep(0)

    def _step(self, ticket: FreeTicket) -> None:
        if not ticket.cancelled:
            ticket.on_event(Answer(next(ticket.pieces) + " "))
        ticket.left = 0 if ticket.cancelled else ticket.left - 1
        if not ticket.left:
            usage = Usage(len(ticket.request.prompt.ids), 0, ticket.request.params.max_tokens or 16, 0)
            ticket.on_event(Finished("length", usage, Timings(0.0, 0.0, 0.0, None, None)))

    def stats(self) -> EngineStats:
        load_now = Load(True, None, len(self._running), 0, 0, 8, 0, 0, 0, Counts())
        return EngineStats(self.model_name, "free", self.max_tokens, 64, 1024, {}, EngineLimits(), load_now)

    def close(self) -> None:
        """Its thread is a daemon."""


# A server as vLLM's is written: pydantic for the request and for every chunk, StreamingResponse over a generator ------


class PlainMessage(BaseModel):
    model_config = ConfigDict(extra="allow")
    role: str
    content: str | list[dict[str, Any]] | None = None


class PlainRequest(BaseModel):
    model_config = ConfigDict(extra="allow")
    model: str
    messages: list[PlainMessage]
    max_tokens: int = 16
    temperature: float | None = None
    stream: bool = False


class PlainDelta(BaseModel):
    role: str | None = None
    content: str | None = None


class PlainChoice(BaseModel):
    index: int = 0
    delta: PlainDelta
    logprobs: None = None
    finish_reason: str | None = None


class PlainUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class PlainChunk(BaseModel):
    id: str = "chatcmpl-0"
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[PlainChoice]
    usage: PlainUsage | None = None


def plain_app(engine: Any) -> tuple[FastAPI, Callable[[], bool]]:
    """As vllm/entrypoints/openai: an asyncio.Queue a request, a pydantic model a chunk."""
    from fathom.text import Message

    app = FastAPI()

    async def events(fields: PlainRequest) -> AsyncIterator[Any]:
        messages = [Message(one.role, str(one.content)) for one in fields.messages]  # type: ignore[arg-type]
        prompt = engine.render(messages)
        queue: asyncio.Queue[Any] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        params = SimpleNamespace(max_tokens=fields.max_tokens)
        request = SimpleNamespace(prompt=prompt, params=params)
        engine.submit(request, lambda event: loop.call_soon_threadsafe(queue.put_nowait, event))
        while not isinstance(event := await queue.get(), Finished):
            yield event
        yield event

    async def chunks(fields: PlainRequest) -> AsyncIterator[str]:
        head = {"created": int(time.time()), "model": fields.model}
        first = PlainChunk(**head, choices=[PlainChoice(delta=PlainDelta(role="assistant", content=""))])
        yield f"data: {first.model_dump_json(exclude_unset=True)}\n\n"
        async for event in events(fields):
            if isinstance(event, Finished):
                used = event.usage
                total = used.prompt_tokens + used.completion_tokens
                usage = PlainUsage(
                    prompt_tokens=used.prompt_tokens, completion_tokens=used.completion_tokens, total_tokens=total
                )
                last = PlainChunk(
                    **head, choices=[PlainChoice(delta=PlainDelta(), finish_reason="length")], usage=usage
                )
                yield f"data: {last.model_dump_json(exclude_unset=True)}\n\n"
            else:
                chunk = PlainChunk(**head, choices=[PlainChoice(delta=PlainDelta(content=event.text))])
                yield f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"
        yield "data: [DONE]\n\n"

    @app.post("/v1/chat/completions")
    async def chat(fields: PlainRequest) -> Any:
        if fields.stream:
            return StreamingResponse(chunks(fields), media_type="text/event-stream")
        text = "".join([event.text async for event in events(fields) if not isinstance(event, Finished)])
        message = {"role": "assistant", "content": text}
        return JSONResponse({"object": "chat.completion", "choices": [{"index": 0, "message": message}]})

    return app, lambda: True


if __name__ == "__main__":
    main()
