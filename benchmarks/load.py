"""What the server adds to the engine, and how it bears a crowd.

    .venv/bin/python benchmarks/load.py overhead          # 32 streams beside the bare engine, and first tokens
    .venv/bin/python benchmarks/load.py requests          # requests/s of a free model: Fathom, a plain FastAPI server
    .venv/bin/python benchmarks/load.py requests --also NAME=PORT:MODEL     # and a server that runs already
    .venv/bin/python benchmarks/load.py crowd --streams 300 --seconds 300   # the crowd for five minutes
    .venv/bin/python benchmarks/load.py crowd --engine    # the same on the real engine

Servers are processes of their own (load_servers.py), the client is this one, and the processor time of each is counted
apart: on a machine with few cores the client takes time from the server that no distant client would take.
Every stream is checked: status, events, [DONE], usage, and its text against what that stream must be told.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from load_client import Answer, Connection
from load_servers import question

PATH = "/v1/chat/completions"
Command = Callable[[str], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overhead", "requests", "crowd"))
    parser.add_argument("--rounds", type=int, default=5, help="of overhead: pairs of engine and server")
    parser.add_argument("--streams", type=int, help="at once; 32 for overhead and requests, 300 for the crowd")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each server (requests), for all (crowd)")
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--engine", action="store_true", help="crowd: on smollm2:135m, not on the free model")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=PORT:MODEL", help="a running server")
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args()
    result = {"overhead": overhead, "requests": requests, "crowd": crowd}[options.what](options)
    print(json.dumps(result, indent=None if options.json else 2))


@contextmanager
def server(kind: str) -> Iterator[tuple[int, Command]]:
    """A server in a process of its own: its port, and what it is told over stdin."""
    script = Path(__file__).with_name("load_servers.py")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(script), kind], **pipes) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def command(line: str) -> Any:
            stdin.write(line + "\n")
            stdin.flush()
            return json.loads(stdout.readline())

        yield int(stdout.readline()), command
        stdin.close()


def body(number: int, tokens: int, *, stream: bool = True, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question(number)}]
    return {"model": "deepseek-chat", "messages": messages, "stream": stream, "max_tokens": tokens, **more}


async def at_once(port: int, count: int, ask: Callable[[Connection, int], Awaitable[Any]]) -> list[Any]:
    """`ask` on so many connections at once."""
    connections = [await Connection.open(port) for _ in range(count)]
    try:
        return await asyncio.gather(*(ask(connection, n) for n, connection in enumerate(connections)))
    finally:
        for connection in connections:
            connection.close()


def overhead(options: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second and processor time of 32 answers at once, engine and server in turn; and the first token."""
    streams, tokens = options.streams or 32, options.tokens
    with server("engine") as (port, command):
        command(f"bare {streams} 4")
        pairs = [
            (command(f"bare {streams} {tokens}"), served(port, command, streams, tokens)) for _ in range(options.rounds)
        ]
        first_engine, first_server = zip(
            *((command("first 5"), asyncio.run(first_tokens(port, 5))) for _ in range(3)), strict=True
        )
    return {
        "engine_tokens_per_second": middle(one["tokens_per_second"] for one, _ in pairs),
        "server_tokens_per_second": middle(two["tokens_per_second"] for _, two in pairs),
        "server_over_engine": middle(two["tokens_per_second"] / one["tokens_per_second"] for one, two in pairs),
        "engine_cpu_us_per_token": middle(one["cpu_us_per_token"] for one, _ in pairs),
        "server_cpu_us_per_token": middle(two["cpu_us_per_token"] for _, two in pairs),
        "event_loop_cpu_us_per_token": middle(two["loop_us_per_token"] for _, two in pairs),
        "client_cpu_us_per_token": middle(two["client_us_per_token"] for _, two in pairs),
        "engine_first_token_ms": middle(first_engine),
        "server_first_token_ms": middle(first_server),
    }


def served(port: int, command: Command, streams: int, tokens: int) -> dict[str, float]:
    """One round through HTTP."""

    async def ask(connection: Connection, number: int) -> Answer:
        return await connection.post(PATH, body(number, tokens, temperature=0.7, seed=number, ignore_eos=True))

    before, own, began = command("cpu"), time.process_time(), time.perf_counter()
    answers = asyncio.run(at_once(port, streams, ask))
    took, own, after = time.perf_counter() - began, time.process_time() - own, command("cpu")
    count = sum(answer.tokens() for answer in answers)
    return {
        "tokens_per_second": count / took,
        "cpu_us_per_token": 1e6 * (after["process"] - before["process"]) / count,
        "loop_us_per_token": 1e6 * (after["loop"] - before["loop"]) / count,
        "client_us_per_token": 1e6 * own / count,
    }


async def first_tokens(port: int, times: int) -> float:
    """Milliseconds to the first token at an empty queue, the prompt cached; median."""
    connection = await Connection.open(port)
    asked = body(0, 2, temperature=0, ignore_eos=True)
    took = [1000 * (await connection.post(PATH, asked)).first for _ in range(times)]
    connection.close()
    return statistics.median(took)


def requests(options: argparse.Namespace) -> dict[str, Any]:
    """Requests per second by 32 clients that ask again at once, whole answers and streams of `--tokens` tokens."""
    result = {}
    for kind in ("zero", "plain"):
        with server(kind) as (port, command):
            result[kind] = rates(port, options, command)
    for name, _, address in (one.partition("=") for one in options.also):
        port, _, model = address.partition(":")
        result[name] = rates(int(port), options, None, model=model)
    return result


def rates(port: int, options: argparse.Namespace, command: Command | None, **more: Any) -> dict[str, float]:
    result = {}
    for form, stream in (("whole", False), ("streamed", True)):
        until = time.perf_counter() + options.seconds

        async def ask(connection: Connection, number: int, stream: bool = stream, until: float = until) -> int:
            asked = 0
            while time.perf_counter() < until:
                answer = await connection.post(PATH, body(number, options.tokens, stream=stream, **more))
                assert answer.status == 200, answer
                asked += 1
            return asked

        before, began = command("cpu") if command else None, time.perf_counter()
        done = sum(asyncio.run(at_once(port, options.streams or 32, ask)))
        result[f"{form}_requests_per_second"] = done / (time.perf_counter() - began)
        if command and before:
            result[f"{form}_cpu_us_per_request"] = 1e6 * (command("cpu")["process"] - before["process"]) / done
    return result


def crowd(options: argparse.Namespace) -> dict[str, Any]:
    """So many people who ask again as soon as they are answered, each text checked."""
    streams, tokens = options.streams or 300, options.tokens
    with server("engine" if options.engine else "zero") as (port, command):
        if options.engine:
            expected = command(f"texts {streams} {tokens}")
        else:
            expected = [echoed(number, tokens) for number in range(streams)]
        tally = Tally(expected, tokens)
        asyncio.run(watched(port, command, tally, streams, options.seconds))
        busy = command("cpu")
    return {
        "streams": streams,
        **tally.report(),
        "server_cpu_seconds": busy["process"],
        "event_loop_cpu_seconds": busy["loop"],
        "client_cpu_seconds": time.process_time(),
        "processors": os.cpu_count(),
    }


def echoed(number: int, tokens: int) -> str:
    """What the free model says to stream `number`."""
    words = question(number).split()
    return "".join(words[n % len(words)] + " " for n in range(tokens))


async def watched(port: int, command: Command, tally: "Tally", streams: int, seconds: float) -> None:
    until = time.perf_counter() + seconds

    async def person(connection: Connection, number: int) -> None:
        while time.perf_counter() < until:
            asked = body(number, tally.tokens, temperature=0, ignore_eos=True)
            answer = await connection.post(PATH, asked)
            if pause := tally.take(number, answer):
                await asyncio.sleep(pause)

    async def look() -> None:
        while time.perf_counter() < until:
            tally.memory.append(await asyncio.to_thread(command, "memory"))
            await asyncio.sleep(seconds / 10)

    watcher = asyncio.create_task(look())
    await at_once(port, streams, person)
    await watcher


class Tally:
    """What the crowd was told."""

    def __init__(self, expected: list[str], tokens: int) -> None:
        self.expected, self.tokens = expected, tokens
        self.firsts: list[float] = []
        self.totals: list[float] = []
        self.gaps: list[float] = []
        self.memory: list[float] = []
        self.refused = 0

    def take(self, number: int, answer: Answer) -> float:
        """Check one answer; seconds to wait where it was a refusal. Raises AssertionError for all that is wrong."""
        if answer.status in (429, 503):
            self.refused += 1
            return float(answer.headers["retry-after"])
        assert answer.status == 200, answer
        assert answer.tokens() == self.tokens, f"stream {number}: {answer.tokens()} tokens"
        text = answer.text()
        assert text == self.expected[number], f"stream {number} was told {text!r}, not {self.expected[number]!r}"
        self.firsts.append(answer.first)
        self.totals.append(answer.total)
        self.gaps += answer.gaps[:: max(1, len(answer.gaps) // 4)]
        return 0.0

    def report(self) -> dict[str, Any]:
        return {
            "answers_all_right": len(self.totals),
            "refused_with_retry_after": self.refused,
            "first_token_seconds": percentiles(self.firsts),
            "between_packets_seconds": percentiles(self.gaps),
            "answer_seconds": percentiles(self.totals),
            "memory_mib": [round(one) for one in self.memory],
        }


def percentiles(values: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=100)
    return {"p50": round(cuts[49], 4), "p90": round(cuts[89], 4), "p99": round(cuts[98], 4)}


def middle(values: Any) -> float:
    return round(statistics.median(values), 3)


if __name__ == "__main__":
    main()
