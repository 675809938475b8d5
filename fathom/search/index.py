"""An index of texts in SQLite: BM25 over words and over substrings, fused; nothing leaves the machine."""

import hashlib
import re
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from fathom.search.ranking import fuse
from fathom.search.terms import content_terms, substrings, terms

CHUNK_CHARACTERS = 1000
TITLE_WEIGHT = 5.0
_CANDIDATES = 50
_BREAKS = (re.compile(r"\n\n"), re.compile(r"[.!?。！？؟]\s*(?=\S)|\n"), re.compile(r"\s"))
_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents(
    id INTEGER PRIMARY KEY, url TEXT NOT NULL UNIQUE, title TEXT NOT NULL, text TEXT NOT NULL,
    published TEXT, stamp TEXT NOT NULL, root TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS chunks(
    id INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES documents(id),
    first INTEGER NOT NULL, last INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS chunks_of_document ON chunks(document);
CREATE VIRTUAL TABLE IF NOT EXISTS words
    USING fts5(title, text, content='', tokenize='porter unicode61 remove_diacritics 2');
CREATE VIRTUAL TABLE IF NOT EXISTS trigrams USING fts5(title, text, content='', tokenize='trigram');
"""


@dataclass(frozen=True, slots=True)
class Document:
    """A text to be found: `stamp` changes when it does, `root` is what the user added (itself, or its folder)."""

    url: str
    title: str
    text: str
    published: str | None = None
    stamp: str = ""
    root: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document; `id` is `document#first-last` in characters of the document's text, the same each time."""

    id: str
    url: str
    title: str
    text: str
    published: str | None


def spans(text: str, size: int = CHUNK_CHARACTERS) -> list[tuple[int, int]]:
    """Cut a text into parts of at most `size` characters that cover it, at paragraphs, else sentences, else words."""
    found: list[tuple[int, int]] = []
    start = 0
    while start < len(text):
        end = min(len(text), start + size)
        if end < len(text):
            end = _last_break(text, start + size // 2, end) or end
        found.append((start, end))
        start = end
    return found


def _last_break(text: str, first: int, last: int) -> int | None:
    for pattern in _BREAKS:
        ends = [match.end() for match in pattern.finditer(text, first, last)]
        if ends:
            return ends[-1]
    return None


class Index:
    """Documents in one file, or in memory (`path` None). Thread-safe; a context manager."""

    def __init__(self, path: Path | None) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path or ":memory:", check_same_thread=False)
        self._connection.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=5000;" + _SCHEMA
        )
        self._lock = threading.RLock()

    def add(self, document: Document) -> None:
        """Add a document, in place of the one of the same URL."""
        with self._lock, self._connection as connection:
            self._remove(document.url)
            row = (document.url, document.title, document.text, document.published, document.stamp, document.root)
            cursor = connection.execute(
                "INSERT INTO documents(url, title, text, published, stamp, root) VALUES(?, ?, ?, ?, ?, ?)", row
            )
            for first, last in spans(document.text):
                chunk = connection.execute(
                    "INSERT INTO chunks(document, first, last) VALUES(?, ?, ?)", (cursor.lastrowid, first, last)
                )
                self._write(chunk.lastrowid, document.title, document.text[first:last], delete=False)

    def _write(self, chunk: int | None, title: str, text: str, *, delete: bool) -> None:
        # A table without content must be told what it forgets (FTS5, section 4.4.2).
        for table, prepared in (("words", (_spaced(title), _spaced(text))), ("trigrams", (title, text))):
            if delete:
                statement = f"INSERT INTO {table}({table}, rowid, title, text) VALUES('delete', ?, ?, ?)"
            else:
                statement = f"INSERT INTO {table}(rowid, title, text) VALUES(?, ?, ?)"
            self._connection.execute(statement, (chunk, *prepared))

    def remove(self, url_or_root: str) -> int:
        """Forget a document, or all that came with a root; returns how many."""
        with self._lock, self._connection as connection:
            rows = connection.execute(
                "SELECT url FROM documents WHERE url = ?1 OR root = ?1", (url_or_root,)
            ).fetchall()
            for (url,) in rows:
                self._remove(url)
        return len(rows)

    def _remove(self, url: str) -> None:
        rows = self._connection.execute(
            "SELECT chunks.id, title, text, first, last FROM chunks JOIN documents ON documents.id = document "
            "WHERE url = ?",
            (url,),
        ).fetchall()
        for chunk, title, text, first, last in rows:
            self._write(chunk, title, text[first:last], delete=True)
            self._connection.execute("DELETE FROM chunks WHERE id = ?", (chunk,))
        self._connection.execute("DELETE FROM documents WHERE url = ?", (url,))

    def stamps(self, root: str) -> dict[str, str]:
        """The stamp of every document of a root, by URL."""
        with self._lock:
            return dict(self._connection.execute("SELECT url, stamp FROM documents WHERE root = ?", (root,)).fetchall())

    def roots(self) -> list[tuple[str, int, int]]:
        """What was added, with the numbers of documents and of characters."""
        with self._lock:
            return self._connection.execute(
                "SELECT root, count(*), sum(length(text)) FROM documents GROUP BY root ORDER BY root"
            ).fetchall()

    def search(self, query: str, k: int) -> list[Passage]:
        """The best passage of each of the best `k` documents. BM25 over words; where they find little, also over
        substrings, fused by rank.
        """
        with self._lock:
            words = self._matches("words", content_terms(query))
            # Looking inside words costs most where words are common, and then whole words have found enough.
            inside = self._matches("trigrams", substrings(query)) if len(words) < _CANDIDATES else []
            passages = (self._passage(chunk) for chunk in fuse([words, inside]))
            best: dict[str, Passage] = {}
            for passage in passages:
                best.setdefault(passage.url, passage)
                if len(best) == k:
                    break
        return list(best.values())

    def _matches(self, table: str, wanted: list[str]) -> list[int]:
        if not wanted:
            return []
        # Terms hold letters and digits only, so quoting them leaves no query syntax.
        query = " OR ".join(f'"{term}"' for term in wanted[:32])
        statement = f"SELECT rowid FROM {table} WHERE {table} MATCH ? ORDER BY bm25({table}, ?, 1.0) LIMIT ?"
        rows = self._connection.execute(statement, (query, TITLE_WEIGHT, _CANDIDATES)).fetchall()
        return [chunk for (chunk,) in rows]

    def _passage(self, chunk: int) -> Passage:
        url, title, published, first, last, text = self._connection.execute(
            "SELECT url, title, published, first, last, substr(text, first + 1, last - first) "
            "FROM chunks JOIN documents ON documents.id = document WHERE chunks.id = ?",
            (chunk,),
        ).fetchone()
        return Passage(f"{document_key(url)}#{first}-{last}", url, title, text.strip(), published)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def document_key(url: str) -> str:
    """A short name of a document that stays the same."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def _spaced(text: str) -> str:
    return " ".join(terms(text))
