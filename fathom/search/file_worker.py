"""The process that parses people's files: reads a line of JSON, writes a line of JSON; knows nothing of Fathom's data.

A file can make a parser slow, large or crash, so this process is bounded by its parent (time) and itself (memory).
"""

import base64
import csv
import io
import json
import os
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

MAX_UNPACKED_BYTES = 256 * 2**20
MAX_MEMBERS = 5000
MAX_PAGES = 2000
MAX_ROWS = 100_000
OCR_LANGUAGES = ("eng", "chi_sim", "ara")

Part = tuple[str, str]  # title, text


class UnreadableError(Exception):
    """A file that cannot be read; the message is for the person who brought it."""


def read(request: dict[str, Any]) -> dict[str, Any]:
    """Title, date (ISO, or empty) and parts of a file, no more than `most` characters."""
    data = base64.b64decode(request["data"])
    title, date, parts = READERS[request["kind"]](data)
    kept: list[dict[str, str]] = []
    left: int = request["most"]
    for name, text in parts:
        kept.append({"title": name, "text": text[:left]})
        left -= len(text)
        if left < 0:
            break
    return {"title": title, "date": date, "parts": kept, "truncated": left < 0}


def read_text(data: bytes) -> tuple[str, str, Iterable[Part]]:
    """A text in another encoding than UTF-8."""
    return "", "", [("", decode(data))]


def decode(data: bytes) -> str:
    """A text in whatever encoding fits best."""
    from charset_normalizer import from_bytes

    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        best = from_bytes(data).best()
    if best is None:
        raise UnreadableError("its encoding is not known: save it as UTF-8")
    return str(best)


def read_table(data: bytes) -> tuple[str, str, Iterable[Part]]:
    """Comma-separated values, or what stands in place of the comma."""
    text = decode(data)
    csv.field_size_limit(10**6)
    try:
        dialect: Any = csv.Sniffer().sniff(text[:8192], delimiters=",;\t|")
    except csv.Error:
        dialect = csv.excel
    return "", "", [("", "\n".join(rows(csv.reader(io.StringIO(text), dialect))))]


def rows(cells: Iterable[Iterable[object]]) -> Iterator[str]:
    """Rows as lines, without those that are empty."""
    for number, row in enumerate(cells):
        if number >= MAX_ROWS:
            yield f"(rows beyond {MAX_ROWS} are left out)"
            return
        line = " | ".join("" if cell is None else str(cell).strip() for cell in row).strip(" |")
        if line:
            yield line


def read_pdf(data: bytes) -> tuple[str, str, Iterable[Part]]:
    """The text of each page."""
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(data))
    if reader.is_encrypted and not reader.decrypt(""):
        raise UnreadableError("it is protected by a password: save a copy without one")
    about = reader.metadata
    title = (about.title if about is not None else None) or ""
    date = about.creation_date if about is not None and about.creation_date_raw else None
    # Programs put the name of their own file there.
    title = "" if title.lower().startswith(("microsoft word", "untitled")) else title
    return title, date.date().isoformat() if date else "", pages(reader.pages)


def pages(all_pages: Any) -> Iterator[Part]:
    """The text of pages; one that is broken is left out."""
    for number, page in enumerate(all_pages, start=1):
        if number > MAX_PAGES:
            yield "", f"(pages beyond {MAX_PAGES} are left out)"
            return
        try:
            yield f"page {number}", page.extract_text()
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            yield "", f"(page {number} cannot be read: {type(error).__name__})"


def read_word(data: bytes) -> tuple[str, str, Iterable[Part]]:
    """Paragraphs and tables of a Word document in their order."""
    import docx
    from docx.table import Table

    check_archive(data)
    document = docx.Document(io.BytesIO(data))
    lines: list[str] = []
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            lines += rows([cell.text for cell in row.cells] for row in block.rows)
        else:
            lines.append(block.text)
    about = document.core_properties
    day = about.modified or about.created
    return about.title or "", day.date().isoformat() if day else "", [("", "\n".join(lines))]


def read_sheets(data: bytes) -> tuple[str, str, Iterable[Part]]:
    """Each sheet of a workbook, with the values that were last computed."""
    import openpyxl  # type: ignore[import-untyped]

    check_archive(data)
    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
    parts = [(sheet.title, "\n".join(rows(sheet.iter_rows(values_only=True)))) for sheet in book.worksheets]
    day = book.properties.modified
    return book.properties.title or "", day.date().isoformat() if day else "", parts


def check_archive(data: bytes) -> None:
    """Refuse an archive that would unfold without end, by the sizes it states, which Python's zipfile enforces."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS or sum(one.file_size for one in members) > MAX_UNPACKED_BYTES:
            raise UnreadableError(f"it unfolds to more than {MAX_UNPACKED_BYTES >> 20} MiB")
        if any(one.flag_bits & 1 for one in members):
            raise UnreadableError("it is protected by a password: save a copy without one")


def read_image(data: bytes) -> tuple[str, str, Iterable[Part]]:
    """The text in an image, by tesseract in those of our languages that it has."""
    listed = subprocess.run(["tesseract", "--list-langs"], capture_output=True, text=True, check=False)
    has = set(listed.stdout.split())
    languages = "+".join(one for one in OCR_LANGUAGES if one in has) or "eng"
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}  # the machine has more to do
    command = ["tesseract", "stdin", "stdout", "-l", languages]
    found = subprocess.run(command, input=data, capture_output=True, check=False, env=environment)
    if found.returncode != 0:
        raise UnreadableError(f"OCR failed: {found.stderr.decode('utf-8', 'replace').strip()[:200]}")
    return "", "", [("", found.stdout.decode("utf-8", "replace"))]


READERS: dict[str, Callable[[bytes], tuple[str, str, Iterable[Part]]]] = {
    "text": read_text,
    "table": read_table,
    "pdf": read_pdf,
    "word": read_word,
    "sheets": read_sheets,
    "image": read_image,
}


def main() -> None:
    """Serve until the input ends."""
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for line in sys.stdin:
        try:
            reply = read(json.loads(line))
        except UnreadableError as error:
            reply = {"error": str(error)}
        except MemoryError:
            reply = {"error": "it takes too much memory"}
        except Exception as error:  # noqa: BLE001 - parsers raise what they like for a broken file
            reply = {"error": f"it is broken ({type(error).__name__}: {str(error)[:200]})"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
