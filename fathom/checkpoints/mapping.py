"""Files as memory: a private, copy-on-write map, so that tensors can be views of the file and nobody can change it."""

import mmap
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fathom.checkpoints.errors import MalformedFileError, SourceError

# A private writable map is counted against memory unless told otherwise: a 400 GB file must map on a 24 GB machine.
# (mmap.MAP_NORESERVE came with Python 3.12; the value is the one of Linux on x86-64 and ARM64.)
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)

Bytes = NDArray[np.uint8]


def release(data: Bytes) -> None:
    """Give the pages of a mapped file back; private changes are lost, the rest is read again when it is needed."""
    base: Any = data.base  # numpy's memoryview of the map
    mapped: mmap.mmap = base.obj
    mapped.madvise(mmap.MADV_DONTNEED)


def map_file(path: Path) -> Bytes:
    """Map a whole regular file; returns its bytes, uint8 [size].

    The array may be written to (torch wants that): writes go to private pages and never to the file.
    """
    try:
        if not path.is_file():
            raise SourceError(f"{path} is not a file")
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size == 0:
                raise MalformedFileError(f"{path} is empty: it was not written or downloaded completely")
            flags = mmap.MAP_PRIVATE | _NO_RESERVE
            mapped = mmap.mmap(file.fileno(), size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    return np.frombuffer(mapped, dtype=np.uint8)
