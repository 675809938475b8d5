"""What a user adds to the index: a folder, a file or a page, read again when it has changed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fathom.search.errors import ExtractionError, IndexingError, SearchError
from fathom.search.extraction import Extractor
from fathom.search.extracts import Extract
from fathom.search.fetching import MAX_BYTES, fetch
from fathom.search.files import MAX_FILE_BYTES, readable_suffixes
from fathom.search.index import Document, Index
from fathom.search.searching import read_page

_PROGRAM_FOLDERS = frozenset({"node_modules", "__pycache__", "site-packages"})


@dataclass(slots=True)
class Report:
    """What happened: numbers of documents, and what was left out, with the reason."""

    added: int = 0
    unchanged: int = 0
    removed: int = 0
    skipped: list[str] = field(default_factory=list)


GoOn = Callable[[], bool]


def add_path(index: Index, path: Path, extractor: Extractor, go_on: GoOn = lambda: True) -> Report:
    """Index a file, or the texts of a folder; what is there unchanged stays, what has gone is forgotten.

    Stops between two files when `go_on` says so; what was read stays, and nothing is forgotten then.

    Left out of folders: hidden files, links, kinds that cannot be read, folders of programs. Raises IndexingError for
    what is not there.
    """
    path = path.expanduser().resolve()
    if not path.exists():
        raise IndexingError(f"{path} is not there")
    root, report = str(path), Report()
    known = index.stamps(root)
    found: set[str] = set()
    for file in _files(path):
        if not go_on():
            return report
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
        index.add(Document(url, extract.title, extract.text, extract.published, stamp, root, extract.sections))
        report.added += 1
    report.removed += sum(index.remove(url) for url in known if url not in found)
    return report


def refresh(index: Index, extractor: Extractor, go_on: GoOn = lambda: True) -> Report:
    """Read what has changed in every folder and file of the index, by time and size; pages of the web stay as they are.

    A folder that is not there keeps its documents: a drive may only be unplugged.
    """
    report = Report()
    for root, _, _ in index.roots():
        # Neither a page's address nor the nothing that a document without a root has is a path to follow.
        if not Path(root).is_absolute() or not Path(root).exists() or not go_on():
            continue
        one = add_path(index, Path(root), extractor, go_on)
        report.added += one.added
        report.unchanged += one.unchanged
        report.removed += one.removed
        report.skipped += one.skipped
    return report


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    suffixes = readable_suffixes()
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path).parts
        is_known = file.suffix.lower() in suffixes
        left_out = any(part.startswith(".") or part in _PROGRAM_FOLDERS for part in inside)
        if is_known and not left_out and file.is_file() and not file.is_symlink():
            yield file


def read_file(file: Path, extractor: Extractor) -> Extract:
    """Title and text of a file. Raises ExtractionError where it cannot be read."""
    if file.stat().st_size > MAX_FILE_BYTES:
        raise ExtractionError(f"it is larger than {MAX_FILE_BYTES >> 20} MiB")
    return extractor.extract_file(file.name, file.read_bytes())


async def add_url(index: Index, url: str, extractor: Extractor, *, allow_private: bool = False) -> Report:
    """Fetch a page and index it. Raises SearchError where it cannot be read."""
    page = await fetch(url, allow_private=allow_private)
    extract = read_page(page, extractor)
    index.add(Document(page.url, extract.title or page.url, extract.text, extract.published, "", page.url))
    return Report(added=1, skipped=[f"{page.url}: only its first {MAX_BYTES >> 20} MiB"] if page.truncated else [])
