"""Search's own time: building and asking an index of own documents, and ten pages of a local site up to the prompt.

    python benchmarks/search.py [--documents 10000] [--json]

Documents are 200 words drawn by their frequency in Python's reference (pydoc_data); the questions are those of
retrieval.jsonl. The site and its SearXNG-shaped engine are on this machine; its pages are articles of some 20 kB.
Wall time and CPU time are both given: on a busy machine the first says more about the neighbours.
"""

import argparse
import asyncio
import collections
import itertools
import json
import random
import statistics
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from pydoc_data.topics import topics  # type: ignore[import-untyped]
from types import SimpleNamespace
from typing import Any, ClassVar

from fathom.search.configured import EngineSettings
from fathom.search.index import Document, Index
from fathom.server.searching import SearchService
from fathom.server.word_vectors import word_vectors
from fathom.text import Message

HERE = Path(__file__).parent
PAGES = 10


def texts(count: int, words: int = 200) -> list[str]:
    rng = random.Random(0)
    known = collections.Counter(" ".join(topics.values()).split())
    drawn = rng.choices(list(known), list(known.values()), k=count * words)
    return [" ".join(drawn[start : start + words]) for start in range(0, len(drawn), words)]


def questions() -> list[str]:
    lines = (HERE / "retrieval.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["question"] for line in lines]


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def measure_index(count: int, folder: Path) -> dict[str, Any]:
    documents = texts(count)
    report: dict[str, Any] = {"documents": count}
    with Index(folder / "index.sqlite3") as index:
        wall, cpu = clocks()
        for number, text in enumerate(documents):
            index.add(Document(f"file:///{number}.txt", f"Document {number}", text))
        now_wall, now_cpu = clocks()
        report["documents_per_second"] = round(count / (now_wall - wall))
        report["documents_per_cpu_second"] = round(count / (now_cpu - cpu))
        for way, vectors in (("words", None), ("words and vectors", word_vectors())):
            index.vectors = vectors
            first, _ = clocks()
            index.search("first", 8)
            report[f"{way}: first query ms"] = round(1000 * (time.perf_counter() - first), 1)
            walls, cpus = [], []
            for question in questions():
                wall, cpu = clocks()
                index.search(question, 8)
                now_wall, now_cpu = clocks()
                walls.append(1000 * (now_wall - wall))
                cpus.append(1000 * (now_cpu - cpu))
            report[f"{way}: query ms"] = {
                "median": round(statistics.median(walls), 1),
                "p95": round(statistics.quantiles(walls, n=20)[-1], 1),
                "cpu_median": round(statistics.median(cpus), 1),
            }
    report["bytes"] = sum(path.stat().st_size for path in folder.glob("index.sqlite3*"))
    return report


class Site(BaseHTTPRequestHandler):
    """An engine at /search and articles below /page."""

    pages: ClassVar[list[bytes]] = []
    origin = ""

    def do_GET(self) -> None:
        if self.path.startswith("/search"):
            rows = [{"url": f"{self.origin}/page/{n}", "title": f"Page {n}", "content": "s"} for n in range(PAGES)]
            kind, body = "application/json", json.dumps({"results": rows}).encode()
        else:
            kind, body = "text/html; charset=utf-8", self.pages[int(self.path.rpartition("/")[2])]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def articles() -> list[bytes]:
    longest = sorted(topics.items(), key=lambda topic: -len(topic[1]))[:PAGES]
    made = []
    for name, text in longest:
        paragraphs = "".join(f"<p>{part}</p>" for part in itertools.islice(text.split("\n\n"), 60))
        menu = "".join(f'<li><a href="/{n}">entry {n}</a></li>' for n in range(80))
        made.append(
            f"<title>{name}</title><nav><ul>{menu}</ul></nav><article><h1>{name}</h1>{paragraphs}</article>".encode()
        )
    return made


def measure_pages(folder: Path, runs: int = 5) -> dict[str, Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    Site.pages, Site.origin = articles(), f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # What Search asks of an engine: how many tokens a text has, and how many fit.
    engine: Any = SimpleNamespace(
        max_tokens=8192,
        model_name="none",
        config=None,
        tokenizer=SimpleNamespace(encode=lambda text: text.split()),
        render=lambda messages: SimpleNamespace(ids=messages[-1].content.split()),
    )
    settings = EngineSettings(searxng_url=Site.origin, private_origins=frozenset({Site.origin}))
    seconds = []
    with SearchService(settings, folder / "own.sqlite3") as search:
        for _ in range(runs):
            began = time.perf_counter()
            turn = [Message("user", "How do I make my own class usable with plus and minus?")]
            found = asyncio.run(search.find(engine, turn, k=PAGES))
            seconds.append(round(time.perf_counter() - began, 3))
    server.shutdown()
    read = sum(source.text is not None for source in found.sources)
    size = sum(map(len, Site.pages))
    return {"pages_read": read, "html_bytes": size, "first_s": seconds[0], "median_s": statistics.median(seconds[1:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure_index(arguments.documents, Path(folder)) | measure_pages(Path(folder))
    if arguments.json:
        print(json.dumps(report))
        return
    for key, value in report.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
