"""Sources cut into pieces of work, by their files alone: any number of processes makes the same pieces."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fathom.data.errors import SourceError
from fathom.data.recipe import Source

_SUFFIXES = {"text": (".txt", ".md", ".rst", ".text"), "jsonl": (".jsonl", ".ndjson"), "parquet": (".parquet",)}


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a file: bytes of a JSONL file (a line belongs to the part it begins in), row groups of a Parquet
    file, or the whole file, `(0, size)`.
    """

    file: Path
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What one process reads in one go: parts of one source, in order."""

    number: int
    source: int
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """Names the files of the piece's results."""
        return f"{self.number:06d}"


def files_of(source: Source, base: Path) -> list[Path]:
    """All files of a source in a fixed order; raises SourceError for a path that names nothing."""
    files: dict[Path, None] = {}
    for pattern in source.paths:
        found = list(_matches(pattern, base, source))
        if not found:
            raise SourceError(
                f"the source {source.name!r} finds no file at {pattern!r} (looked in {base}; a folder is searched for "
                f"{', '.join(_suffixes(source))})"
            )
        files.update(dict.fromkeys(found))
    return list(files)


def _matches(pattern: str, base: Path, source: Source) -> Iterator[Path]:
    path = base / Path(pattern).expanduser()
    if path.is_dir():
        inside = (file for file in path.rglob("*") if file.is_file() and file.name.endswith(_suffixes(source)))
        yield from sorted(inside, key=lambda file: file.relative_to(path).parts)
    elif path.is_file():
        yield path
    elif any(character in pattern for character in "*?["):
        anchor = Path(path.anchor)
        yield from sorted(file for file in anchor.glob(str(path.relative_to(anchor))) if file.is_file())


def _suffixes(source: Source) -> tuple[str, ...]:
    plain = source.suffixes or _SUFFIXES[source.format]
    return plain if source.format == "parquet" else (*plain, *(f"{suffix}.gz" for suffix in plain))


def plan_pieces(sources: Sequence[Source], base: Path, piece_bytes: int) -> list[Piece]:
    """All pieces, source by source, each of about `piece_bytes` (a whole file at least, where it cannot be cut)."""
    pieces: list[Piece] = []
    for number, source in enumerate(sources):
        for parts in _grouped(source, files_of(source, base), piece_bytes):
            pieces.append(Piece(len(pieces), number, tuple(parts)))
    return pieces


def _grouped(source: Source, files: list[Path], piece_bytes: int) -> Iterator[list[Part]]:
    group: list[Part] = []
    size = 0
    for file in files:
        for part, part_bytes in _parts(source, file, piece_bytes):
            if group and size + part_bytes > piece_bytes:
                yield group
                group, size = [], 0
            group.append(part)
            size += part_bytes
    if group:
        yield group


def _parts(source: Source, file: Path, piece_bytes: int) -> Iterator[tuple[Part, int]]:
    size = file.stat().st_size
    if source.format == "parquet":
        yield from _row_groups(file)
    elif source.format == "jsonl" and file.suffix != ".gz":
        for start in range(0, size, piece_bytes):
            stop = min(start + piece_bytes, size)
            yield Part(file, start, stop), stop - start
    else:
        yield Part(file, 0, size), size


def _row_groups(file: Path) -> Iterator[tuple[Part, int]]:
    from fathom.data.reading import parquet_file

    metadata = parquet_file(file).metadata
    for group in range(metadata.num_row_groups):
        yield Part(file, group, group + 1), metadata.row_group(group).total_byte_size
