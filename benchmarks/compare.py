"""Fathom beside llama.cpp and transformers: same files, same threads, one run, turn by turn.

    make bench                                                  # installs the peers, then all of it, both models
    .venv/bin/python benchmarks/compare.py --json               # peers that are not installed are left out
    .venv/bin/python benchmarks/compare.py --model v3-shaped    # random weights in DeepSeek V3's architecture
    .venv/bin/python benchmarks/compare.py --peer-python /tmp/llama/bin/python --only fathom llama.cpp --rounds 5

Each engine lives in a process of its own and is asked in turn (A B C A B C …), so that a change in the machine's speed
meets all of them. Printed: medians in tokens per second, and Fathom's ratio to each peer, pair by pair, as a median;
the distance of the logits from the float32 model's on a fixed text; memory while serving; what a cold process needs
until its first token after a prompt of 16; which share of the memory limit one sequence reaches; and the same against
the best of llama.cpp's precisions whose logits are as near as ours, beside the target. About eight minutes a model on
two cores that nothing else uses. A small --new flatters Fathom at many sequences: some decode before all have begun.
"""

import argparse
import datetime
import json
import os
import platform
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

AS_NEAR = 1.1  # a peer's logits are as near as ours up to so many times our distance
TEXT_TOKENS = 256  # that distances are measured on
SLOW_NEW, SLOW_ROUNDS = 32, 1  # tokens and rounds of contenders that would take most of the time
PREFILL, ONE, LATER, EIGHT, MANY = (
    "prefill, 512 tokens",
    "1 sequence",
    "1 sequence after 512",
    "8 sequences",
    "32 sequences",
)
TARGETS = {
    "smollm2": {ONE: 1.8, LATER: 2.4, EIGHT: 2.7, MANY: 1.8, PREFILL: 2.0},
    "v3-shaped": {ONE: 1.3, MANY: 2.0},
}
HOW_TO_INSTALL = "make bench installs it; or name an interpreter that has it with --peer-python"


def measurements(new: int) -> list[Measurement]:
    """What is asked of every contender; `new` tokens are decoded, the first of which counts as prefill."""
    decodes = [(ONE, 1, 16), (LATER, 1, 512), (EIGHT, 8, 16), (MANY, 32, 16)]
    return [(PREFILL, "prefill", {"tokens": 512}, 512)] + [
        (name, "decode", {"sequences": sequences, "new": new, "context": context}, sequences * (new - 1))
        for name, sequences, context in decodes
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
    parser.add_argument("--peer-python", default=sys.executable, help="the interpreter that has llama_cpp")
    parser.add_argument("--install", action="store_true", help="install peers that are missing (minutes, once)")
    parser.add_argument("--json", action="store_true", help="one JSON object at the end")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, Path(args.model), args.threads)
        return
    if args.install:
        install_peers()
    args.only = present(args.only or default_contenders(args.model), args.peer_python)
    results = compare(files_of(args.model, args.files), args)
    print(table(results, args.rounds))
    if args.json:
        print(json.dumps(results))


def default_contenders(model: str) -> list[str]:
    """Of a file only its own format; of the random model, which is BF16, what reads deepseek2 GGUFs."""
    if model == "smollm2":
        return ["fathom", "llama.cpp", "llama.cpp q8_0", "llama.cpp bf16", "transformers bfloat16"]
    if model == "v3-shaped":
        return ["fathom", "fathom q8_0", "llama.cpp", "llama.cpp q8_0"]
    return ["fathom", "llama.cpp", "transformers bfloat16"]


def interpreter(name: str, peer_python: str) -> str:
    """Which Python runs a contender."""
    return peer_python if name.startswith("llama.cpp") else sys.executable


def present(names: list[str], peer_python: str) -> list[str]:
    """Those of the contenders whose packages are installed; the others are named on stderr."""
    modules = {"llama.cpp": "llama_cpp", "transformers": "accelerate, transformers", "fathom": "sys"}
    kept = []
    for name in names:
        command = [interpreter(name, peer_python), "-c", f"import {modules[name.split()[0]]}"]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            print(f"{name} is left out: it is not installed ({HOW_TO_INSTALL})", file=sys.stderr)
        else:
            kept.append(name)
    return kept


def install_peers() -> None:
    """Into this environment, unless they are there; llama.cpp is compiled for this machine.

    Its own code for AMX ends with a segmentation fault (0.3.36, larger batches; docs/performance.md), so where the
    machine has AMX the build names every other instruction set instead of taking them all.
    """
    if len(present(["llama.cpp", "transformers bfloat16"], sys.executable)) == 2:
        return
    print("installing the peers; llama.cpp is compiled (some minutes, once) …", file=sys.stderr, flush=True)
    sets = ["SSE42", "AVX", "AVX2", "FMA", "F16C", "BMI2", "AVX512", "AVX512_VBMI", "AVX512_VNNI", "AVX512_BF16"]
    flags = "-DGGML_NATIVE=OFF " + " ".join(f"-DGGML_{name}=ON" for name in sets)
    has_amx = any("amx_int8" in line for line in cpu_information())
    environment = os.environ | ({"CMAKE_ARGS": flags} if has_amx else {})
    pins = Path(__file__).parent.parent / "requirements/bench.txt"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "-r", str(pins)]
    subprocess.run(command, check=True, env=environment)


def work(name: str, model: Path, threads: int) -> None:
    """The inside of a contender's process: one JSON question a line in, one answer a line out."""
    contender = CONTENDERS[name][0](model, threads)
    print(json.dumps({"ready": name}), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        answer = getattr(contender, question["method"])(**question["arguments"])
        print(json.dumps({"answer": answer, "resident_bytes": resident_bytes()}), flush=True)


def resident_bytes() -> int:
    """Memory that this process holds now, mapped files that it has read among it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Worker:
    """A contender in a process of its own."""

    def __init__(self, name: str, model: Path, threads: int, python: str) -> None:
        command = [python, __file__, "--worker", name, "--model", str(model), "--threads", str(threads)]
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

    def ask(self, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"method": method, "arguments": arguments}) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def compare(files: dict[str, Path], args: argparse.Namespace) -> dict[str, Any]:
    """Everything, by contender: cold starts and distances in processes of their own, then all rates turn by turn."""
    names, threads = args.only, args.threads

    def worker(name: str) -> Worker:
        return Worker(name, files[CONTENDERS[name][1]], threads, interpreter(name, args.peer_python))

    starts: dict[str, list[float]] = {name: [] for name in names}
    distances: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        reference, ids = reference_logits(files["own"])
        for round_number in range(max(args.rounds, 2)):  # the first one also brings the files into memory
            for name in names:
                cold = worker(name)
                starts[name].append(cold.first_token_seconds)
                if not round_number:
                    distances[name] = distance(cold, ids, reference, Path(folder) / "logits.npy")
                cold.close()
    rates, memory = measured_rates([worker(name) for name in names], args.rounds, args.new)
    bytes_read = {name: bytes_per_token(files[CONTENDERS[name][1]], 16 + args.new // 2) for name in names}
    bandwidth = {name: read_bandwidth(size, threads) for name, size in bytes_read.items()}
    return {
        "model": args.model,
        "tokens_per_second": rates,
        "logits_distance": distances,
        "memory_bytes": memory,
        "first_token_seconds": {name: statistics.median(times[1:]) for name, times in starts.items()},
        "bytes_per_token": bytes_read,
        "read_bytes_per_second": bandwidth,
        "threads": threads,
        "machine": machine(),
        "date": str(datetime.date.today()),
    }


def measured_rates(
    workers: list[Worker], rounds: int, new: int
) -> tuple[dict[str, dict[str, list[float]]], dict[str, int]]:
    """Tokens per second by measurement and contender, one figure a round; the most memory that each held."""
    from tqdm import tqdm

    rates: dict[str, dict[str, list[float]]] = {name: {} for name, *_ in measurements(new)}
    memory = dict.fromkeys((worker.name for worker in workers), 0)
    both = list(zip(measurements(new), measurements(min(new, SLOW_NEW)), strict=True))
    for full, short in tqdm(both, unit="measurement", disable=not sys.stderr.isatty()):
        for round_number in range(rounds + 1):  # the first one warms up
            for worker in workers:
                slow = worker.name.startswith(("transformers", "fathom (torch)"))
                if slow and not 1 <= round_number <= SLOW_ROUNDS:
                    continue
                measurement, method, arguments, tokens = short if slow else full
                answer = worker.ask(method, arguments)
                memory[worker.name] = max(memory[worker.name], answer["resident_bytes"])
                if round_number:
                    rates[measurement].setdefault(worker.name, []).append(tokens / answer["answer"])
    for worker in workers:
        worker.close()
    return rates, memory


def reference_logits(model: Path) -> tuple[Any, list[int]]:
    """What the model says in float32, dequantised, after every token of a fixed text; and the text."""
    import torch

    from fathom.checkpoints import load_model, open_checkpoint
    from fathom.engine.loading import read_tokenizer
    from fathom.models.cache import NoCache

    checkpoint = open_checkpoint(model)
    text = (Path(__file__).parent.parent / "LICENSE").read_text(encoding="utf-8")
    ids = read_tokenizer(checkpoint).encode(text)[:TEXT_TOKENS]
    transformer = load_model(checkpoint, dtype=torch.float32)
    with torch.inference_mode():
        hidden_ND = transformer(torch.tensor(ids), torch.arange(len(ids)), NoCache(1, len(ids)))
        return transformer.logits(hidden_ND).numpy(), ids


def distance(worker: Worker, ids: list[int], reference: Any, file: Path) -> float:
    """How far a contender's logits are from the reference, as a share of it (Frobenius norms)."""
    import numpy as np

    worker.ask("logits", {"ids": ids, "file": str(file)})
    found = np.load(file)
    return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))


def bytes_per_token(model: Path, context: int) -> int:
    """What one step of one sequence has to read: the weights once, of experts the chosen, and the cache (BF16)."""
    from fathom.checkpoints import open_checkpoint

    checkpoint = open_checkpoint(model)
    config, total = checkpoint.config, 2 * checkpoint.config.cache_width * checkpoint.config.num_hidden_layers * context
    for name in checkpoint.names():
        share = config.num_experts_per_tok / config.n_routed_experts if ".mlp.experts." in name else 1.0
        if "embed_tokens" in name and not config.tie_word_embeddings:
            share = 1 / config.vocab_size
        total += int(checkpoint.info(name).bytes * share)
    return total


def read_bandwidth(size: int, threads: int, passes: int = 12) -> float:
    """Bytes a second that so many threads read of a buffer as large as what a token reads; the best of some passes."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    parts = np.array_split(np.ones(size // 4, dtype=np.float32), threads)
    times = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(passes):
            began = time.perf_counter()
            list(pool.map(np.max, parts))
            times.append(time.perf_counter() - began)
    return size / min(times)


def machine() -> str:
    names = [line.split(":")[1].strip() for line in cpu_information() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def cpu_information() -> Iterator[str]:
    path = Path("/proc/cpuinfo")
    yield from path.read_text().splitlines() if path.exists() else ()


def table(results: dict[str, Any], rounds: int) -> str:
    """Markdown: medians, and in brackets Fathom's speed over that peer's (median of the paired ratios)."""
    rates, names = results["tokens_per_second"], list(results["logits_distance"])
    lines = [
        f"{results['model']}: {results['machine']}, {results['threads']} threads, {results['date']}, "
        f"median of {rounds}; tokens/s (Fathom is … times as fast)",
        "",
        "| | " + " | ".join(names) + " |",
        "| --- " * (len(names) + 1) + "|",
    ]
    rows = {measurement: [cell(by_name, name) for name in names] for measurement, by_name in rates.items()}
    rows["distance of the logits from float32"] = [f"{results['logits_distance'][name]:.2%}" for name in names]
    rows["memory while serving, MiB"] = [f"{results['memory_bytes'][name] / 2**20:.0f}" for name in names]
    rows["cold process to first token, s"] = [f"{results['first_token_seconds'][name]:.2f}" for name in names]
    rows["share of the memory limit, 1 sequence"] = [limit_cell(results, name) for name in names]
    lines += [f"| {what} | " + " | ".join(cells) + " |" for what, cells in rows.items()]
    return "\n".join([*lines, "", *targets(results)])


def cell(by_name: dict[str, list[float]], name: str) -> str:
    median = f"{statistics.median(by_name[name]):.0f}"
    if name == "fathom" or "fathom" not in by_name:
        return median
    return f"{median} ({ratio(by_name, 'fathom', name):.2f}x)"


def ratio(by_name: dict[str, list[float]], ours: str, theirs: str) -> float:
    """How many times as fast, round by round, as a median; a contender asked in fewer rounds has fewer pairs."""
    return statistics.median(one / other for one, other in zip(by_name[ours], by_name[theirs], strict=False))


def limit_cell(results: dict[str, Any], name: str) -> str:
    rate = statistics.median(results["tokens_per_second"][ONE][name])
    read, limit = results["bytes_per_token"][name] * rate, results["read_bytes_per_second"][name]
    return f"{read / limit:.0%} ({read / 1e9:.1f} of {limit / 1e9:.1f} GB/s)"


def targets(results: dict[str, Any]) -> Iterator[str]:
    """Each of Fathom's precisions against the best of llama.cpp's that is as near to float32, beside the targets."""
    distances, rates = results["logits_distance"], results["tokens_per_second"]
    for ours in (name for name in distances if name in ("fathom", "fathom q8_0")):
        peers = [
            name for name in distances if name.startswith("llama.cpp") and distances[name] <= AS_NEAR * distances[ours]
        ]
        if not peers:
            continue
        yield f"{ours} against the best of {', '.join(peers)}, whose logits are as near:"
        for measurement, by_name in rates.items():
            times, best = min((ratio(by_name, ours, peer), peer) for peer in peers)
            yield f"  {measurement}: {times:.2f}x ({best}){goal(results['model'], measurement, times)}"
        memory, start = results["memory_bytes"], results["first_token_seconds"]
        least, soonest = min(memory[peer] for peer in peers), min(start[peer] for peer in peers)
        yield f"  memory: {memory[ours] / least:.2f} times its least; target at most 1: {met(memory[ours] <= least)}"
        soon = start[ours] < 1.5 and start[ours] <= 2 * soonest
        times = start[ours] / soonest
        yield f"  start: {start[ours]:.2f} s, {times:.2f} times its soonest; target 1.5 s and 2: {met(soon)}"


def goal(model: str, measurement: str, times: float) -> str:
    target = TARGETS.get(model, {}).get(measurement)
    return "" if target is None else f"; target {target}: {met(times >= target)}"


def met(yes: bool) -> str:
    return "met" if yes else "missed"


if __name__ == "__main__":
    main()
