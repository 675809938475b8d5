"""What this machine reaches, and repeating computations bit for bit on it."""

import contextlib
import ctypes
import time
from collections.abc import Iterator

import torch


def matrix_rate(dtype: torch.dtype, size: int = 1024, seconds: float = 0.3) -> float:
    """Operations per second of square matrix products of this dtype: the best of what fits into `seconds`."""
    left, right = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
    torch.matmul(left, right)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.matmul(left, right)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Forbid operations whose result varies from run to run (on a CPU: atomic additions of several threads)."""
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory up to 32 MB a piece instead of giving it back and clearing it anew.

    A training step frees and takes the same sizes again and again; the page faults were 6 % of a step here. Returns
    whether the library knows how (glibc does).
    """
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(mmap_threshold, 32 << 20) and mallopt(trim_threshold, 1 << 30))
