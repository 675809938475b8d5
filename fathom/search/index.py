"""An index of texts in SQLite: BM25 over words and substrings, and similar words, fused; nothing leaves the machine."""

import contextlib
import dataclasses
import hashlib
import json
import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fathom.search.extracts import Section
from fathom.search.ranking import fuse
from fathom.search.similarity import Ids, SimilarPassages
from fathom.search.terms import content_terms, substrings, terms
from fathom.search.vectors import WordVectors

CHUNK_CHARACTERS = 1000
TITLE_WEIGHT = 5.0
PASSAGES_PER_DOCUMENT = 3
_CANDIDATES = 50
_MOST_TERMS = 32  # of a query
_LEAST_SHARE = 0.4
_VERSION = 1  # of the schema
_PASSAGE = re.compile(r"([0-9a-f]{16})#(\d{1,9})-(\d{1,9})")
_BREAKS = (re.compile(r"\n\n"), re.compile(r"[.!?。！？؟]\s*(?=\S)|\n"), re.compile(r"\s"))
_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents(
    id INTEGER PRIMARY KEY, url TEXT NOT NULL UNIQUE, title TEXT NOT NULL, text TEXT NOT NULL,
    published TEXT, stamp TEXT NOT NULL, root TEXT NOT NULL, sections TEXT NOT NULL DEFAULT '[]');
CREATE TABLE IF NOT EXISTS chunks(
    id INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES documents(id),
    first INTEGER NOT NULL, last INTEGER NOT NULL, terms BLOB);
CREATE TABLE IF NOT EXISTS vocabulary(id INTEGER PRIMARY KEY, term TEXT NOT NULL UNIQUE);
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
    sections: tuple[Section, ...] = ()


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document; `id` is `document#first-last` in characters of the document's text, the same each time.

    `section` is the name of the section that it begins in ("page 3"), where the document has any.
    """

    id: str
    url: str
    title: str
    text: str
    published: str | None
    section: str | None = None


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A passage in its surroundings: `before`, `text`, `after` as they stand in the document."""

    url: str
    title: str
    section: str | None
    before: str
    text: str
    after: str


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
    """Documents in one file, or in memory (`path` None). Thread-safe; a context manager.

    With `vectors` (also set later) passages are found by similar words too.
    """

    def __init__(self, path: Path | None, vectors: WordVectors | None = None) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path or ":memory:", check_same_thread=False)
        self._connection.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=5000;" + _SCHEMA
        )
        self._connection.create_function("document_key", 1, document_key, deterministic=True)
        self._lock = threading.RLock()
        self.vectors = vectors
        self._term_ids: dict[str, int] = {}
        self._changes = 0
        self._similar: tuple[tuple[object, ...], list[int], SimilarPassages] | None = None
        self._migrate()

    def _migrate(self) -> None:
        """Bring a file of an earlier version up to this one."""
        with self._connection as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] >= _VERSION:
                return
            columns = {row[1] for row in connection.execute("PRAGMA table_info(chunks)")}
            if "terms" not in columns:
                connection.execute("ALTER TABLE chunks ADD COLUMN terms BLOB")
                connection.execute("ALTER TABLE documents ADD COLUMN sections TEXT NOT NULL DEFAULT '[]'")
                rows = connection.execute(
                    "SELECT chunks.id, substr(text, first + 1, last - first) FROM chunks "
                    "JOIN documents ON documents.id = document"
                ).fetchall()
                for chunk, text in rows:
                    connection.execute("UPDATE chunks SET terms = ? WHERE id = ?", (self._stored_terms(text), chunk))
            connection.execute(f"PRAGMA user_version = {_VERSION}")

    def add(self, document: Document) -> None:
        """Add a document, in place of the one of the same URL."""
        with self._writing() as connection:
            self._remove(document.url)
            row = (document.url, document.title, document.text, document.published, document.stamp, document.root)
            sections = json.dumps([dataclasses.astuple(section) for section in document.sections])
            cursor = connection.execute(
                "INSERT INTO documents(url, title, text, published, stamp, root, sections) VALUES(?, ?, ?, ?, ?, ?, ?)",
                (*row, sections),
            )
            for first, last in spans(document.text):
                text = document.text[first:last]
                chunk = connection.execute(
                    "INSERT INTO chunks(document, first, last, terms) VALUES(?, ?, ?, ?)",
                    (cursor.lastrowid, first, last, self._stored_terms(text)),
                )
                self._write(chunk.lastrowid, document.title, text, delete=False)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it or nothing."""
        with self._lock:
            self._changes += 1
            try:
                with self._connection as connection:
                    yield connection
            except BaseException:
                self._term_ids.clear()  # the numbers that it gave are gone
                raise

    def _stored_terms(self, text: str) -> bytes:
        """The numbers of a passage's terms, each once, as int32."""
        found = list(dict.fromkeys(terms(text)))
        new = [term for term in found if term not in self._term_ids]
        self._connection.executemany("INSERT OR IGNORE INTO vocabulary(term) VALUES(?)", ((term,) for term in new))
        for term in new:
            (number,) = self._connection.execute("SELECT id FROM vocabulary WHERE term = ?", (term,)).fetchone()
            self._term_ids[term] = number
        return np.array([self._term_ids[term] for term in found], "<i4").tobytes()

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
        with self._writing() as connection:
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

    def search(self, query: str, k: int, per_document: int = PASSAGES_PER_DOCUMENT) -> list[Passage]:
        """The best `k` passages, at most `per_document` of one document.

        BM25 over words; where they find little, also over substrings; where there are vectors, also passages with
        similar words; fused by rank.
        """
        with self._lock:
            wanted = content_terms(query)
            words = self._matches("words", wanted)
            # Looking inside words costs most where words are common, and then whole words have found enough.
            inside = self._matches("trigrams", substrings(query)) if len(words) < _CANDIDATES else []
            # Something is always somewhat similar: where no word is found, it has to be much.
            least = 0.0 if words or inside else _LEAST_SHARE
            similar = self._similar_to(wanted, least) if self.vectors is not None and wanted else []
            found: list[Passage] = []
            taken: dict[str, int] = {}
            for chunk in fuse([words, inside, similar]):
                passage = self._passage(chunk)
                taken[passage.url] = taken.get(passage.url, 0) + 1
                if taken[passage.url] <= per_document:
                    found.append(passage)
                if len(found) == k:
                    break
        return found

    def _similar_to(self, wanted: Sequence[str], least: float) -> list[int]:
        # Another process may have written: SQLite counts that, for this connection.
        version = (self._changes, *self._connection.execute("PRAGMA data_version").fetchone(), id(self.vectors))
        if self._similar is None or self._similar[0] != version:
            self._similar = (version, *self._read_similar())
        _, chunks, similar = self._similar
        return [chunks[place] for place in similar.rank(wanted[:_MOST_TERMS], _CANDIDATES, least)]

    def _read_similar(self) -> tuple[list[int], SimilarPassages]:
        rows = self._connection.execute("SELECT id, terms FROM chunks ORDER BY id").fetchall()
        numbered = self._connection.execute("SELECT id, term FROM vocabulary ORDER BY id").fetchall()
        vocabulary = [""] * (numbered[-1][0] + 1 if numbered else 1)
        for number, term in numbered:
            vocabulary[number] = term
        passages: list[Ids] = [np.frombuffer(stored, "<i4") for _, stored in rows]
        assert self.vectors is not None
        return [chunk for chunk, _ in rows], SimilarPassages(passages, vocabulary, self.vectors)

    def _matches(self, table: str, wanted: list[str]) -> list[int]:
        if not wanted:
            return []
        # Terms hold letters and digits only, so quoting them leaves no query syntax.
        query = " OR ".join(f'"{term}"' for term in wanted[:_MOST_TERMS])
        statement = f"SELECT rowid FROM {table} WHERE {table} MATCH ? ORDER BY bm25({table}, ?, 1.0) LIMIT ?"
        rows = self._connection.execute(statement, (query, TITLE_WEIGHT, _CANDIDATES)).fetchall()
        return [chunk for (chunk,) in rows]

    def _passage(self, chunk: int) -> Passage:
        url, title, published, first, last, text, sections = self._connection.execute(
            "SELECT url, title, published, first, last, substr(text, first + 1, last - first), sections "
            "FROM chunks JOIN documents ON documents.id = document WHERE chunks.id = ?",
            (chunk,),
        ).fetchone()
        section = _section(sections, first)
        return Passage(f"{document_key(url)}#{first}-{last}", url, title, text.strip(), published, section)

    def excerpt(self, passage: str, around: int = 3000) -> Excerpt | None:
        """The passage that an id names, with up to `around` characters on both sides; None where it is not there.

        Only what the index holds can be named: an id is no path, and a document that was removed is gone.
        """
        named = _PASSAGE.fullmatch(passage)
        if named is None:
            return None
        key, first, last = named[1], int(named[2]), int(named[3])
        with self._lock:
            found = self._connection.execute(
                "SELECT documents.id FROM chunks JOIN documents ON documents.id = document "
                "WHERE first = ? AND last = ? AND document_key(url) = ?",
                (first, last, key),
            ).fetchone()
            if found is None:
                return None
            url, title, text, sections = self._connection.execute(
                "SELECT url, title, text, sections FROM documents WHERE id = ?", found
            ).fetchone()
        before, after = text[max(0, first - around) : first], text[last : last + around]
        return Excerpt(url, title, _section(sections, first), before, text[first:last], after)

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


def _section(sections: str, place: int) -> str | None:
    return next((name for name, first, last in json.loads(sections) if first <= place < last), None)


def _spaced(text: str) -> str:
    return " ".join(terms(text))
