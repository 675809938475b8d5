"""Fathom beside llama.cpp and transformers: same file, same threads, one run, turn by turn.

    make bench                                   # everything, as in docs/performance.md
    .venv/bin/python benchmarks/compare.py --only fathom "llama.cpp" --rounds 5 --json
    .venv/bin/python benchmarks/compare.py --model v3-shaped    # random weights in DeepSeek V3's architecture

Each engine lives in a process of its own and is asked in turn (A B C A B C …), so that a change in the machine's speed
meets all of them. Printed: medians in tokens per second, and Fathom's ratio to each peer, pair by pair, as a median;
and what a cold process needs until its first token after a prompt of 16, once, before the others are at work.
"""

import argparse
import datetime
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contenders import CONTENDERS

from models import files_of

Measurement = tuple[str, str, dict[str, int], int]  # name, method, arguments, tokens counted


def measurements(new: int) -> list[Measurement]:
    """What is asked of every contender; `new` tokens are decoded, the first of which counts as prefill."""
    decodes = [(1, 16), (1, 512), (8, 16), (32, 16)]
    return [("prefill, 512 tokens", "prefill", {"tokens": 512}, 512)] + [
        (
            f"decode {new}, {sequences} sequence{'s' * (sequences > 1)}" + (" after 512" if context == 512 else ""),
            "decode",
            {"sequences": sequences, "new": new, "context": context},
            sequences * (new - 1),
        )
        for sequences, context in decodes
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="smollm2 (default), v3-shaped, or a .gguf file")
    parser.add_argument(
        "--files", type=Path, default=Path(tempfile.gettempdir()) / "fathom-benchmarks", help="made here"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, default=128, help="tokens to decode (default 128)")
    parser.add_argument("--only", nargs="*", choices=list(CONTENDERS))
    parser.add_argument("--json", action="store_true", help="one JSON object at the end")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, Path(args.model), args.threads)
        return
    args.only = args.only or default_contenders(args.model)
    check_peers(args.only)
    results = compare(files_of(args.model, args.files), args.threads, args.rounds, args.only, measurements(args.new))
    print(table(results, args))
    if args.json:
        print(json.dumps(results))


def default_contenders(model: str) -> list[str]:
    """Of a file only its own format; of the random model, which is BF16, what reads deepseek2 GGUFs."""
    if model == "v3-shaped":
        return ["fathom", "fathom q8_0", "llama.cpp", "llama.cpp q8_0"]
    return [name for name, (_, format_) in CONTENDERS.items() if model == "smollm2" or format_ == "own"]


def check_peers(names: list[str]) -> None:
    """The peers are no dependency of the tests: they are installed when a benchmark first wants them."""
    wanted = [
        "llama_cpp" if name.startswith("llama.cpp") else "accelerate" for name in names if not name.startswith("fathom")
    ]
    if any(importlib.util.find_spec(module) is None for module in wanted):
        print(
            "installing the peers; llama.cpp is built for this machine (some minutes, once) …",
            file=sys.stderr,
            flush=True,
        )
        pins = Path(__file__).parent.parent / "requirements/bench.txt"
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-r", str(pins)], check=True)


def work(name: str, model: Path, threads: int) -> None:
    """The inside of a contender's process: one JSON question a line in, one answer a line out."""
    contender = CONTENDERS[name][0](model, threads)
    print(json.dumps({"ready": name}), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        seconds = getattr(contender, question["method"])(**question["arguments"])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak_memory_bytes": peak}), flush=True)


class Worker:
    """A contender in a process of its own."""

    def __init__(self, name: str, model: Path, threads: int) -> None:
        command = [sys.executable, __file__, "--worker", name, "--model", str(model), "--threads", str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self.name = name
        began = time.perf_counter()
        self.complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.complaints, text=True, env=environment
        )
        self.answer()
        self.ask("prefill", {"tokens": 16})
        self.first_token_seconds = time.perf_counter() - began

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        self.complaints.seek(0)
        raise SystemExit(f"{self.name} ended early:\n{self.complaints.read()[-2000:]}")

    def ask(self, method: str, arguments: dict[str, int]) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"method": method, "arguments": arguments}) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def compare(
    files: dict[str, Path], threads: int, rounds: int, names: list[str], asked: list[Measurement]
) -> dict[str, Any]:
    """Tokens per second by measurement and contender, one figure a round; each contender's peak memory and start."""
    from tqdm import tqdm

    workers = [Worker(name, files[CONTENDERS[name][1]], threads) for name in names]
    rates: dict[str, dict[str, list[float]]] = {name: {} for name, *_ in asked}
    memory: dict[str, int] = {}
    for measurement, method, arguments, tokens in tqdm(asked, unit="measurement", disable=not sys.stderr.isatty()):
        for round_number in range(rounds + 1):
            for worker in workers:
                answer = worker.ask(method, arguments)
                memory[worker.name] = answer["peak_memory_bytes"]
                if round_number:  # the first round warms up
                    rates[measurement].setdefault(worker.name, []).append(tokens / answer["seconds"])
    for worker in workers:
        worker.close()
    return {
        "tokens_per_second": rates,
        "peak_memory_bytes": memory,
        "first_token_seconds": {worker.name: worker.first_token_seconds for worker in workers},
        "threads": threads,
        "machine": machine(),
        "date": str(datetime.date.today()),
    }


def machine() -> str:
    names = [line.split(":")[1].strip() for line in cpu_information() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def cpu_information() -> Iterator[str]:
    path = Path("/proc/cpuinfo")
    yield from path.read_text().splitlines() if path.exists() else ()


def table(results: dict[str, Any], args: argparse.Namespace) -> str:
    """Markdown: medians, and in brackets Fathom's speed over that peer's (median of the paired ratios)."""
    rates = results["tokens_per_second"]
    lines = [
        f"{results['machine']}, {results['threads']} threads, {results['date']}, median of {args.rounds}; tokens/s "
        "(Fathom is … times as fast)",
        "",
        "| | " + " | ".join(args.only) + " |",
        "| --- " * (len(args.only) + 1) + "|",
    ]
    for measurement, by_name in rates.items():
        cells = [cell(by_name, name) for name in args.only]
        lines.append(f"| {measurement} | " + " | ".join(cells) + " |")
    memory = [f"{results['peak_memory_bytes'][name] / 2**20:.0f} MiB" for name in args.only]
    lines.append("| peak memory of the process | " + " | ".join(memory) + " |")
    starts = [f"{results['first_token_seconds'][name]:.2f} s" for name in args.only]
    lines.append("| cold process to first token | " + " | ".join(starts) + " |")
    return "\n".join(lines)


def cell(by_name: dict[str, list[float]], name: str) -> str:
    median = f"{statistics.median(by_name[name]):.0f}"
    if name == "fathom" or "fathom" not in by_name:
        return median
    ratios = [ours / theirs for ours, theirs in zip(by_name["fathom"], by_name[name], strict=True)]
    return f"{median} ({statistics.median(ratios):.2f}x)"


if __name__ == "__main__":
    main()
