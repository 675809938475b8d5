"""Files that people bring: what they are, by their bytes first, and what they say.

Plain UTF-8 is read here; everything that needs a parser is read by `file_worker.py` in a bounded process.
"""

import base64
import shutil
from pathlib import PurePath
from typing import Any, Literal

from fathom.search.cleaning import clean
from fathom.search.errors import ExtractionError
from fathom.search.extracts import Extract, Section, clean_title
from fathom.search.worker import Worker

MAX_FILE_BYTES = 32 * 2**20
MAX_TEXT_CHARACTERS = 4 * 10**6
FILE_SECONDS = 30.0

_PROSE = ".txt .text .md .markdown .rst .org .tex .bib .log .srt .vtt"
_CODE = (
    ".py .pyi .js .mjs .ts .tsx .jsx .c .h .cc .cpp .hpp .cs .rs .go .java .kt .swift .rb .php .pl .lua .r .jl .m "
    ".scala .hs .sql .sh .bash .zsh .fish .ps1 .bat .vim .el .css .scss .svelte .vue .proto .graphql .tf .gradle "
    ".cmake .mk .diff .patch .ipynb"
)
_DATA = ".json .jsonl .toml .yaml .yml .ini .cfg .conf .xml .svg"
TEXTS = frozenset(f"{_PROSE} {_CODE} {_DATA}".split())
TABLES = frozenset({".csv", ".tsv"})
PAGES = frozenset({".html", ".htm", ".xhtml"})
DOCUMENTS = frozenset({".pdf", ".docx", ".docm", ".xlsx", ".xlsm"})
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif"})

Kind = Literal["text", "page", "table", "pdf", "word", "sheets", "image"]

_IMAGE_MARKS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_OLE = bytes.fromhex("d0cf11e0a1b11ae1")


def can_read_images() -> bool:
    """Whether the OCR program is on this machine."""
    return shutil.which("tesseract") is not None


def readable_suffixes() -> frozenset[str]:
    """What is read out of folders; images only where there is OCR."""
    return TEXTS | TABLES | PAGES | DOCUMENTS | (IMAGES if can_read_images() else frozenset())


def kind_of(name: str, data: bytes) -> Kind:
    """What a file is. Raises ExtractionError for what cannot be read, with what can be done about it."""
    suffix = PurePath(name).suffix.lower()
    if data.startswith(b"%PDF"):
        return "pdf"
    if data.startswith(_OLE):
        raise ExtractionError(
            "it is protected by a password, or of the format that Office used before 2007: "
            "save it without a password as .docx or .xlsx"
        )
    if data.startswith(b"PK"):
        return _kind_of_archive(suffix)
    if suffix in IMAGES and (data.startswith(_IMAGE_MARKS) or data[8:12] == b"WEBP"):
        if not can_read_images():
            raise ExtractionError("reading text in images needs the program tesseract, which is not on this machine")
        return "image"
    if suffix in PAGES:
        return "page"
    if b"\0" in data and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ExtractionError("it is not a text; texts, PDF, Word, spreadsheets, web pages and images can be read")
    return "table" if suffix in TABLES else "text"


def _kind_of_archive(suffix: str) -> Kind:
    if suffix in (".docx", ".docm"):
        return "word"
    if suffix in (".xlsx", ".xlsm"):
        return "sheets"
    raise ExtractionError("archives are not opened: unpack it, and add what is inside")


def read_text(name: str, text: str) -> Extract:
    """A text as it stands; its title is a heading at its beginning, else the file's name."""
    truncated = len(text) > MAX_TEXT_CHARACTERS
    text = clean(text[:MAX_TEXT_CHARACTERS], layout=True)
    if not text:
        raise ExtractionError("it is empty")
    heading = text.partition("\n")[0] if text.startswith("# ") else ""
    return Extract(clean_title(heading.lstrip("# ")) or _stem(name), text, truncated=truncated)


def read_parsed(name: str, kind: Kind, data: bytes, worker: Worker) -> Extract:
    """A file that needs a parser. Raises ExtractionError where it is broken, encrypted or too much."""
    reply = worker.ask({"kind": kind, "data": base64.b64encode(data).decode("ascii"), "most": MAX_TEXT_CHARACTERS})
    text, sections = _joined(reply["parts"])
    if not text:
        raise ExtractionError(
            "it holds no text: a scan has to go through OCR first" if kind == "pdf" else "it holds no text"
        )
    title = clean_title(reply["title"]) or _stem(name)
    return Extract(title, text, reply["date"] or None, sections, reply["truncated"])


def _joined(parts: list[dict[str, Any]]) -> tuple[str, tuple[Section, ...]]:
    """The cleaned texts of all parts, and where each lies."""
    text, sections = "", []
    for part in parts:
        said = clean(part["text"], layout=True)
        if not said:
            continue
        text += "\n\n" if text else ""
        if part["title"]:
            sections.append(Section(clean_title(part["title"]), len(text), len(text) + len(said)))
        text += said
    return text, tuple(sections)


def _stem(name: str) -> str:
    path = PurePath(name)
    return clean_title(path.stem if path.suffix else path.name) or "file"
