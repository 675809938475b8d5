"""Recall of Search's own documents on labelled questions, against plain BM25.

    python benchmarks/retrieval.py [--json]

The corpus: this repository's docs/ and the topics of Python's reference that ship with Python itself (pydoc_data).
The questions (retrieval.jsonl) are paraphrases written before any ranking was looked at; each names words of the
passage that answers it. A passage hits when it holds them. Labels whose words an edit of docs/ has taken away are left
out and counted.
"""

import argparse
import json
import re
import statistics
import time
from pathlib import Path
from pydoc_data.topics import topics  # type: ignore[import-untyped]
from typing import Any

from fathom.search.index import Document, Index
from fathom.search.terms import content_terms
from fathom.server.word_vectors import word_vectors

HERE = Path(__file__).parent
DEPTHS = (1, 5, 10)
KINDS = ("docs", "python")


def corpus() -> dict[str, str]:
    pages = {
        f"docs/{path.name}": path.read_text(encoding="utf-8") for path in sorted((HERE.parent / "docs").glob("*.md"))
    }
    return pages | {f"python/{name}": text for name, text in topics.items()}


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def plain_bm25(index: Index, question: str, k: int) -> list[str]:
    """FTS5's own ranking over words, nothing else."""
    return [index._passage(chunk).text for chunk in index._matches("words", content_terms(question))[:k]]


def fused(index: Index, question: str, k: int) -> list[str]:
    return [passage.text for passage in index.search(question, k)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    pages = corpus()
    whole = {
        name.partition("/")[0]: one_line(" ".join(t for n, t in pages.items() if n.startswith(name[:4])))
        for name in pages
    }
    rows = [json.loads(line) for line in (HERE / "retrieval.jsonl").read_text(encoding="utf-8").splitlines()]
    labelled = [row for row in rows if one_line(row["answer"]) in whole[row["document"].partition("/")[0]]]
    report: dict[str, Any] = {"questions": len(labelled), "labels_lost": len(rows) - len(labelled)}
    plain: list[bool] = []
    ways = {"BM25": (plain_bm25, None), "words": (fused, None), "words and vectors": (fused, word_vectors())}
    for way, (search, vectors) in ways.items():
        with Index(None, vectors) as index:
            for name, text in pages.items():
                index.add(Document(name, name, text))
            hits: dict[int, list[bool]] = {k: [] for k in DEPTHS}
            seconds = []
            for row in labelled:
                began = time.perf_counter()
                found = [one_line(text) for text in search(index, row["question"], max(DEPTHS))]
                seconds.append(time.perf_counter() - began)
                for k in DEPTHS:
                    hits[k].append(any(one_line(row["answer"]) in text for text in found[:k]))
        recalls = {f"recall@{k}": round(statistics.mean(hits[k]), 3) for k in DEPTHS}
        report[way] = {**recalls, "median_ms": round(1000 * statistics.median(seconds), 1)}
        plain = plain or hits[5]
        report[way] |= {
            "gained@5": sum(now and not then for now, then in zip(hits[5], plain, strict=True)),
            "lost@5": sum(then and not now for now, then in zip(hits[5], plain, strict=True)),
        }
    if arguments.json:
        print(json.dumps(report))
        return
    for key, value in report.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
