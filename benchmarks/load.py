"""What the server adds to the engine, and how it bears a crowd.

    .venv/bin/python benchmarks/load.py --json            # 32 streams beside the bare engine, first tokens, 300 streams
    .venv/bin/python benchmarks/load.py --seconds 300     # the crowd for five minutes

The server runs in this process on the loopback with the default model, so that both ways use the same engine; they are
asked in turn (engine, server, engine, server ...). The crowd streams 300 answers at a time; each is checked: every
token arrives once, in order, with [DONE], and the usage counts what came.
"""

import argparse
import asyncio
import json
import resource
import socket
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import uvicorn

from fathom.engine.loading import load
from fathom.server.api import create_app
from fathom.server.config import ServerConfig
from fathom.server.listen import TimedProtocol
from fathom.server.service import Service

PROMPT = "Count from one upwards in words."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with load("smollm2:135m") as engine:
        url, stop = serve(engine)
        engine.generate(PROMPT, max_tokens=8)
        result: dict[str, Any] = {
            "overhead": overhead(engine, url, options.rounds, options.tokens),
            "first_token": first_token(engine, url),
            "crowd": asyncio.run(crowd(url, options.streams, options.seconds)),
        }
        stop()
    print(json.dumps(result, indent=None if options.json else 2))


def serve(engine: Any) -> tuple[str, Any]:
    """The API around an engine on a free port of the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    service = Service(lambda _: engine, engine.model_name)
    service.close = lambda: None  # type: ignore[method-assign]
    app = create_app(service, ServerConfig(port=port))
    server = uvicorn.Server(uvicorn.Config(app, port=port, http=TimedProtocol, log_config=None, backlog=1024))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started or service.state != "ready":
        time.sleep(0.02)

    def stop() -> None:
        server.should_exit = True
        thread.join(5)

    return f"http://127.0.0.1:{port}", stop


def overhead(engine: Any, url: str, rounds: int, tokens: int) -> dict[str, float]:
    """Tokens per second of 32 answers at once: from the engine's events, and through HTTP streams; medians."""

    def bare() -> float:
        options = {"max_tokens": tokens, "temperature": 0.7, "ignore_eos": True}
        began = time.perf_counter()
        with ThreadPoolExecutor(32) as pool:
            done = list(pool.map(lambda seed: engine.generate(PROMPT, seed=seed, **options), range(32)))
        return sum(one.finished.usage.completion_tokens for one in done) / (time.perf_counter() - began)

    def served() -> float:
        return asyncio.run(streams(url, 32, tokens))

    pairs = [(bare(), served()) for _ in range(rounds)]
    return {
        "engine_tokens_per_second": statistics.median(one for one, _ in pairs),
        "server_tokens_per_second": statistics.median(two for _, two in pairs),
        "server_over_engine": statistics.median(two / one for one, two in pairs),
    }


async def streams(url: str, count: int, tokens: int) -> float:
    """Tokens per second of so many streams at once."""
    async with client() as http:
        began = time.perf_counter()
        done = await asyncio.gather(*(stream(http, url, tokens, seed) for seed in range(count)))
        return sum(tokens for tokens, _ in done) / (time.perf_counter() - began)


def first_token(engine: Any, url: str, times: int = 15) -> dict[str, float]:
    """Milliseconds to the first token at an empty queue, the prompt cached: the engine's and the server's, in turn."""
    own, through = [], []
    with httpx.Client(trust_env=False, timeout=60) as http:
        for _ in range(times):
            began = time.perf_counter()
            events = engine.stream(PROMPT, max_tokens=2, temperature=0)
            next(events)
            own.append(1000 * (time.perf_counter() - began))
            list(events)
            began = time.perf_counter()
            with http.stream("POST", f"{url}/chat/completions", json=body(2, 0)) as response:
                seen = [time.perf_counter() for line in response.iter_lines() if '"content"' in line]
            through.append(1000 * (seen[0] - began))
    return {"engine_ms": statistics.median(own), "server_ms": statistics.median(through)}


async def crowd(url: str, count: int, seconds: float) -> dict[str, float]:
    """So many people who ask again as soon as they are answered."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    until = time.perf_counter() + seconds
    firsts: list[float] = []
    totals: list[float] = []
    refused = 0

    async def person(http: httpx.AsyncClient, seed: int) -> None:
        nonlocal refused
        while time.perf_counter() < until:
            began = time.perf_counter()
            try:
                _, first = await stream(http, url, 16, seed)
            except httpx.HTTPStatusError as error:
                if error.response.status_code != 503:
                    raise
                refused += 1
                await asyncio.sleep(float(error.response.headers["retry-after"]))
                continue
            firsts.append(first)
            totals.append(time.perf_counter() - began)

    async with client() as http:
        await asyncio.gather(*(person(http, seed) for seed in range(count)))
    quantiles = statistics.quantiles(totals, n=100)
    return {
        "streams": count,
        "answers": len(totals),
        "refused_with_retry_after": refused,
        "first_token_seconds_p50": statistics.median(firsts),
        "answer_seconds_p50": quantiles[49],
        "answer_seconds_p99": quantiles[98],
        "memory_grew_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }


async def stream(http: httpx.AsyncClient, url: str, tokens: int, seed: int) -> tuple[int, float]:
    """One streamed answer, checked: tokens by its usage, seconds to its first."""
    began, first, usage, ended = time.perf_counter(), 0.0, None, False
    async with http.stream("POST", f"{url}/chat/completions", json=body(tokens, 0.7, seed)) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                ended = True
            elif line.startswith("data: "):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise AssertionError(chunk)
                first = first or time.perf_counter() - began
                usage = chunk.get("usage") or usage
    assert ended, "a stream ended without [DONE]"
    assert usage is not None, "a stream ended without usage"
    assert usage["completion_tokens"] == tokens
    return usage["completion_tokens"], first


def body(tokens: int, temperature: float, seed: int = 0) -> dict[str, Any]:
    message = {"role": "user", "content": PROMPT}
    sampling = {"temperature": temperature, "seed": seed, "ignore_eos": True, "max_tokens": tokens}
    return {"model": "deepseek-chat", "messages": [message], "stream": True, **sampling}


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, timeout=600, limits=httpx.Limits(max_connections=None))


if __name__ == "__main__":
    main()
