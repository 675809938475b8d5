"""Plain text out of what packages ship: JSON, HTML, dictionaries, databases, chats, paragraphs, files."""

import gzip
import json
import re
import sqlite3
import string
from collections.abc import Callable, Iterator
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from fathom.data.errors import DataError

_DOCUMENT_CHARACTERS = 2000
_BLOCK_TAGS = "p li h1 h2 h3 h4 h5 h6 dt dd td th pre blockquote figcaption div section tr title"
_SKIPPED_TAGS = "script style nav header footer form button svg head"
_VOID_TAGS = "br hr img input link meta area base col embed source track wbr"
_MENU_NAMES = "navigation related sphinxsidebar docnav docnav_top navheader navfooter toc sidebar footer"
_BLOCKS = frozenset(_BLOCK_TAGS.split())
_SKIPPED = frozenset(_SKIPPED_TAGS.split())
_VOID = frozenset(_VOID_TAGS.split())
_MENUS = frozenset(_MENU_NAMES.split())


def read_bytes(file: Path) -> bytes:
    """The file's content, decompressed where its name ends in .gz or .dz."""
    return gzip.decompress(file.read_bytes()) if file.suffix in (".gz", ".dz") else file.read_bytes()


def from_text(file: Path) -> Iterator[str]:
    """The whole file."""
    yield read_bytes(file).decode(errors="replace")


def from_paragraphs(file: Path) -> Iterator[str]:
    """A long text in documents of some paragraphs, with hard line breaks taken out of each paragraph."""
    paragraphs = re.split(r"\n\s*\n", read_bytes(file).decode(errors="replace").replace("\r\n", "\n"))
    yield from gathered(" ".join(paragraph.split()) for paragraph in paragraphs)


def from_json(file: Path, template: str) -> Iterator[str]:
    """Every object of a list, every value of an object of objects, or the object itself, through a template."""
    value = json.loads(file.read_bytes())
    rows = value if isinstance(value, list) else list(value.values()) if _holds_objects(value) else [value]
    for row in rows:
        yield filled(template, row)


def _holds_objects(value: dict[str, Any]) -> bool:
    return all(isinstance(entry, dict) for entry in value.values())


def filled(template: str, row: dict[str, Any]) -> str:
    """The template with the row's fields; lists become lines. Raises DataError for a field the row has not."""
    fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    missing = [field for field in fields if field not in row]
    if missing:
        raise DataError(f"a row has no {missing[0]!r}; it has {', '.join(row)}")
    values = {field: row[field] for field in fields}
    return template.format(**{k: "\n".join(map(str, v)) if isinstance(v, list) else v for k, v in values.items()})


class _Html(HTMLParser):
    """Collects the text of blocks; keeps the lines of <pre>, leaves out menus, scripts and forms."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[str] = []
        self._text: list[str] = []
        self._skipped_tag = ""
        self._skipped_depth = 0
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipped_depth:
            self._skipped_depth += tag == self._skipped_tag
            return
        if tag in _SKIPPED or (tag not in _VOID and _is_menu(dict(attrs))):
            self.end_block()
            self._skipped_tag, self._skipped_depth = tag, 1
            return
        if tag in _BLOCKS:
            self.end_block()
        self._preformatted += tag == "pre"
        if tag == "br":
            self._text.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if self._skipped_depth:
            self._skipped_depth -= tag == self._skipped_tag
            return
        if tag in _BLOCKS:
            self.end_block()
        if tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)

    def handle_data(self, data: str) -> None:
        if not self._skipped_depth:
            self._text.append(data)

    def end_block(self) -> None:
        text = "".join(self._text)
        self._text = []
        text = text.strip("\n") if self._preformatted else " ".join(text.replace("¶", "").split())
        if text.strip():
            self.blocks.append(text)


def _is_menu(attributes: dict[str, str | None]) -> bool:
    """Menus that are not <nav>: Sphinx's, DocBook's and Publican's names for them."""
    names = {*(attributes.get("class") or "").split(), attributes.get("role") or "", attributes.get("id") or ""}
    return not names.isdisjoint(_MENUS)


def from_html(file: Path) -> Iterator[str]:
    """The blocks of the page with blank lines between; menus, scripts and forms left out."""
    parser = _Html()
    parser.feed(read_bytes(file).decode(errors="replace"))
    parser.close()
    parser.end_block()
    yield "\n\n".join(parser.blocks)


def from_dictd(file: Path) -> Iterator[str]:
    """A dictionary's entries, from its index, several to a document; entries about the file itself left out."""
    content = read_bytes(file)
    places = set()
    for line in (file.parent / f"{file.name.removesuffix('.dict.dz')}.index").read_text("utf-8").splitlines():
        headword, start, size = line.split("\t")[:3]
        if not headword.startswith(("00-database", "00database")):
            places.add((_base64(start), _base64(size)))
    entries = (content[start : start + size].decode(errors="replace").strip() for start, size in sorted(places))
    yield from gathered(entry.replace("{", "").replace("}", "") for entry in entries)


def _base64(digits: str) -> int:
    """The dictd index's numbers: base 64, the most significant digit first (dictd's manual, dictfmt(1))."""
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    value = 0
    for digit in digits:
        value = 64 * value + alphabet.index(digit)
    return value


def gathered(parts: Iterator[str]) -> Iterator[str]:
    """Short parts joined to documents of about 2,000 characters, blank lines between."""
    group: list[str] = []
    size = 0
    for part in parts:
        if not part.strip():
            continue
        group.append(part)
        size += len(part)
        if size >= _DOCUMENT_CHARACTERS:
            yield "\n\n".join(group)
            group, size = [], 0
    if group:
        yield "\n\n".join(group)


def from_sqlite(file: Path, query: str) -> Iterator[str]:
    """The first column of every row; the database is opened read-only."""
    with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
        for row in database.execute(query):
            yield str(row[0])


def from_chats(file: Path) -> Iterator[str]:
    """Chats as lines, a dash before each turn; what one person sends in a row is one turn."""
    for chat in json.loads(file.read_bytes()).values():
        turns = [" ".join(message["text"].strip() for message in turn) for turn in chat["messages"] if turn]
        if len(turns) > 1:
            yield "\n".join(f"- {turn}" for turn in turns)


FORMS: dict[str, Callable[..., Iterator[str]]] = {
    "text": from_text,
    "paragraphs": from_paragraphs,
    "json": from_json,
    "html": from_html,
    "dictd": from_dictd,
    "sqlite": from_sqlite,
    "chats": from_chats,
}
