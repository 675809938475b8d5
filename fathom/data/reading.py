"""Documents out of files. What cannot be read is counted, never skipped in silence; a wrong field name is an error."""

import gzip
import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from fathom.data.errors import DataError, SourceError
from fathom.data.pieces import Part
from fathom.data.recipe import Source
from fathom.data.typed import nearest


def read_part(source: Source, part: Part) -> Iterator[str | None]:
    """The texts of a part in order; None for what is not UTF-8, not JSON, or holds null."""
    if source.format == "parquet":
        yield from _parquet(source, part)
    elif source.format == "jsonl":
        for line in _lines(part):
            yield _text_of_line(line, source, part.file)
    else:
        yield from _text(source, part.file)


def _open(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]


def _text(source: Source, file: Path) -> Iterator[str | None]:
    with _open(file) as stream:
        try:
            text = stream.read().decode()
        except UnicodeDecodeError:
            yield None
            return
    yield from [text] if source.separator is None else text.split(source.separator)


def _lines(part: Part) -> Iterator[bytes]:
    """The lines that begin within the part."""
    with _open(part.file) as stream:
        if part.start:
            stream.seek(part.start - 1)
            stream.readline()  # the rest of the line before, which may be just its newline
        compressed = part.file.suffix == ".gz"
        while (compressed or stream.tell() < part.stop) and (line := stream.readline()):
            if line.strip():
                yield line


def _text_of_line(line: bytes, source: Source, file: Path) -> str | None:
    try:
        row = json.loads(line)
    except (UnicodeDecodeError, json.JSONDecodeError):
        return None
    if not isinstance(row, dict):
        return None
    text = value_at(row, source.field, f"{file} (source {source.name!r})")
    return text if isinstance(text, str) else None


def value_at(row: Mapping[str, Any], field: str, where: str) -> Any:
    """The value at `a.b` of nested objects; raises SourceError with the nearest name where there is no such field."""
    value: Any = row
    for key in field.split("."):
        if not isinstance(value, Mapping) or key not in value:
            known = list(value) if isinstance(value, Mapping) else []
            raise SourceError(f"{where}: a row has no field {field!r}{nearest(key, known)}")
        value = value[key]
    return value


def parquet_file(file: Path) -> Any:
    """The opened file; raises DataError with what to install where pyarrow is missing."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError("Parquet needs pyarrow: pip install 'fathom-llm[data]'") from error
    return parquet.ParquetFile(file)


def _parquet(source: Source, part: Part) -> Iterator[str | None]:
    opened = parquet_file(part.file)
    column, *nested = source.field.split(".")
    names = opened.schema_arrow.names
    if column not in names:
        raise SourceError(
            f"{part.file} (source {source.name!r}): there is no column {column!r}{nearest(column, names)}"
        )
    for group in range(part.start, part.stop):
        for value in opened.read_row_group(group, columns=[column])[column].to_pylist():
            text = value_at(value, ".".join(nested), str(part.file)) if nested and value is not None else value
            yield text if isinstance(text, str) else None
