"""Pages of cache in files, by digest: each whole or not there, checked when read, bounded together.

A file holds a header (what wrote it, which page it is, how long, a checksum) and a page's bytes. It is written beside
its place and renamed into it, so whoever is killed in between leaves no half page; what the disk damages fails the
checksum and is removed. All stores of one folder share the bound: the files least recently used go first, whichever
model they are of, and of pages used together the later ones of a prefix, without which the earlier ones are of use.
"""

import contextlib
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger("fathom.engine")

_HEADER = struct.Struct(
    "<8s16s16sQI"
)  # magic, fingerprint, digest, payload bytes, CRC-32 of all before and the payload
_MAGIC = b"FATHOMP1"
_LOOK_EVERY = 1 / 32  # of the bound, by which each process may overstep it
_EVICT_TO = 0.9
_STALE_SECONDS = 600.0


class PageStore:
    """Safe for several threads and processes.

    Args:
        folder: where the files of all stores are; made readable by its owner only.
        fingerprint: 16 bytes that are equal only where a page's bytes mean the same: weights, layout, number format.
        limit_bytes: what all files under `folder` may take.

    """

    def __init__(self, folder: Path, fingerprint: bytes, limit_bytes: int) -> None:
        self._folder = folder
        self._fingerprint = fingerprint
        self._limit = limit_bytes
        self._own = folder / fingerprint.hex()
        self._lock = threading.Lock()
        self._unseen = limit_bytes  # bytes written since the last look at what all stores hold together
        self._works = True

    def has(self, digest: bytes) -> bool:
        """Whether there is a file for a page; it may still turn out to be damaged."""
        return self._path(digest).exists()

    def read(self, digest: bytes, into: bytearray, index: int = 0) -> bool:
        """Fill `into` with a page's bytes, and note its use; False where there is none, or it is damaged: then it goes.

        `index` is its place in its prefix. The buffer is the caller's, to be used again: touching fresh memory takes
        several times as long as reading the file.
        """
        path = self._path(digest)
        try:
            with path.open("rb", buffering=0) as file:
                header = file.read(_HEADER.size)
                whole = file.readinto(into) == len(into) and not file.read(1)
        except OSError:
            return False
        if not (whole and self._is_right(header, digest, into)):
            log.warning("%s is damaged; it is removed", path)
            path.unlink(missing_ok=True)
            return False
        _touch(path, index)
        return True

    def write(self, digest: bytes, data: bytes | memoryview, index: int = 0) -> None:
        """Keep a page. What the disk refuses is logged once, and nothing more is written."""
        if not self._works:
            return
        header = _HEADER.pack(_MAGIC, self._fingerprint, digest, len(data), 0)[:-4]
        checksum = zlib.crc32(data, zlib.crc32(header))
        path = self._path(digest)
        partial = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            for folder in (self._folder, self._own, path.parent):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial.touch(mode=0o600)
            with partial.open("wb") as file:
                file.write(header + struct.pack("<I", checksum))
                file.write(data)
            _touch(partial, index)
            partial.replace(path)
        except OSError as error:
            log.warning("the prefix cache on disk takes no more: %s: %s", path, error)
            self._works = False
            with contextlib.suppress(OSError):
                partial.unlink()
            return
        self._grow(_HEADER.size + len(data))

    def _path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self._own / name[:2] / f"{name}.page"

    def _is_right(self, header: bytes, digest: bytes, data: bytearray) -> bool:
        *named, checksum = _HEADER.unpack(header)
        return named == [_MAGIC, self._fingerprint, digest, len(data)] and checksum == zlib.crc32(
            data, zlib.crc32(header[: _HEADER.size - 4])
        )

    def _grow(self, n_bytes: int) -> None:
        with self._lock:
            self._unseen += n_bytes
            if self._unseen > self._limit * _LOOK_EVERY:
                self._unseen = 0
                self._evict()

    def _evict(self) -> None:
        """Where the bound does not hold, remove the files least recently used; and what a killed process left."""
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        if total > self._limit:
            for _, size, path in files:
                if total <= _EVICT_TO * self._limit:
                    break
                path.unlink(missing_ok=True)
                total -= size

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """(last used, bytes, path) of every page of every model."""
        stale = time.time() - _STALE_SECONDS
        for path in self._folder.glob("*/*/*"):
            try:
                info = path.stat()
            except FileNotFoundError:
                continue
            if path.suffix == ".page":
                yield info.st_mtime_ns, info.st_size, path
            elif path.suffix == ".tmp" and info.st_mtime < stale:
                path.unlink(missing_ok=True)


def _touch(path: Path, index: int) -> None:
    """Note the use of a page. Each page of a prefix counts as used a second before the page ahead of it."""
    used = time.time_ns() - index * 1_000_000_000
    with contextlib.suppress(FileNotFoundError):  # another process may have evicted it meanwhile
        os.utime(path, ns=(used, used))
