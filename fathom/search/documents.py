"""What a user adds to the index: a folder, a file or a page, read again when it has changed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fathom.search.cleaning import clean
from fathom.search.errors import IndexingError, SearchError
from fathom.search.extraction import Extract, Extractor, clean_title
from fathom.search.fetching import MAX_BYTES, fetch
from fathom.search.index import Document, Index
from fathom.search.searching import read_page

_PROSE = ".txt .text .md .markdown .rst .org .tex .csv .tsv .json .toml .yaml .yml .ini"
_CODE = ".py .js .ts .c .h .cpp .rs .go .java .sh"
TEXT_SUFFIXES = frozenset(f"{_PROSE} {_CODE}".split())
HTML_SUFFIXES = frozenset({".html", ".htm", ".xhtml"})


@dataclass(slots=True)
class Report:
    """What happened: numbers of documents, and what was left out, with the reason."""

    added: int = 0
    unchanged: int = 0
    removed: int = 0
    skipped: list[str] = field(default_factory=list)


def add_path(index: Index, path: Path, extractor: Extractor) -> Report:
    """Index a file, or the texts of a folder; what is there unchanged stays, what has gone is forgotten.

    Hidden files, links and kinds that are not text are left out of folders. Raises IndexingError for what is not there.
    """
    path = path.expanduser().resolve()
    if not path.exists():
        raise IndexingError(f"{path} is not there")
    root, report = str(path), Report()
    known = index.stamps(root)
    found: set[str] = set()
    for file in _files(path):
        url, status = file.as_uri(), file.stat()
        stamp = f"{status.st_mtime_ns}:{status.st_size}"
        found.add(url)
        if known.get(url) == stamp:
            report.unchanged += 1
            continue
        try:
            extract = read_file(file, extractor)
        except (SearchError, OSError) as error:
            report.skipped.append(f"{file}: {error}")
            report.removed += index.remove(url)
            continue
        index.add(Document(url, extract.title, extract.text, extract.published, stamp, root))
        report.added += 1
    report.removed += sum(index.remove(url) for url in known if url not in found)
    return report


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path).parts
        is_known = file.suffix.lower() in TEXT_SUFFIXES | HTML_SUFFIXES
        if is_known and file.is_file() and not file.is_symlink() and not any(part.startswith(".") for part in inside):
            yield file


def read_file(file: Path, extractor: Extractor) -> Extract:
    """Title and text of a file. Raises IndexingError or ExtractionError where it has no text that is known."""
    if file.stat().st_size > MAX_BYTES:
        raise IndexingError(f"larger than {MAX_BYTES >> 20} MiB")
    data = file.read_bytes()
    if b"\0" in data or data.startswith(b"%PDF"):
        raise IndexingError("not a text")
    text = data.decode("utf-8-sig", errors="replace")
    if file.suffix.lower() in HTML_SUFFIXES:
        extract = extractor.extract(text)
        return Extract(extract.title or file.stem, extract.text, extract.published)
    text = clean(text)
    if not text:
        raise IndexingError("empty")
    heading = text.partition("\n")[0] if text.startswith("# ") else ""
    return Extract(clean_title(heading.lstrip("# ")) or file.stem, text)


async def add_url(index: Index, url: str, extractor: Extractor, *, allow_private: bool = False) -> Report:
    """Fetch a page and index it. Raises SearchError where it cannot be read."""
    page = await fetch(url, allow_private=allow_private)
    extract = read_page(page, extractor)
    index.add(Document(page.url, extract.title or page.url, extract.text, extract.published, "", page.url))
    return Report(added=1, skipped=[f"{page.url}: only its first {MAX_BYTES >> 20} MiB"] if page.truncated else [])
