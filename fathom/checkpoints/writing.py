"""Writing files so that a final name always means a complete file: temporary name, fsync, rename."""

import errno
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fathom.checkpoints.errors import DiskFullError

PART_SUFFIX = ".part"
_PIECE_BYTES = 16 << 20
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_atomically(path: Path, parts: Iterable[bytes | memoryview]) -> str:
    """Write `parts` to `path` and return their sha256 in hex.

    Raises:
        DiskFullError: no room; the temporary file is removed and what stood at `path` before still stands there.

    """
    temporary = path.with_name(path.name + PART_SUFFIX)
    digest = hashlib.sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for part in parts:
                _write(file.fileno(), part, digest)
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in _NO_ROOM:
            raise DiskFullError(
                f"no room to write {path}: {error.strerror}; free some space and start again"
            ) from error
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return digest.hexdigest()


def _write(descriptor: int, part: bytes | memoryview, digest: "hashlib._Hash") -> None:
    view = memoryview(part).cast("B")
    while len(view):
        written = os.write(descriptor, view[:_PIECE_BYTES])
        digest.update(view[:written])
        view = view[written:]


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, indented, with a newline at the end."""
    write_atomically(path, [(json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()])


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The sha256 of a file in hex, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
