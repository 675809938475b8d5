"""What this machine reaches, and repeating computations bit for bit on it."""

import contextlib
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
