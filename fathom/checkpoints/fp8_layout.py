"""How FP8 weights and their scales lie in a checkpoint; without torch. What they mean: `fathom.checkpoints.fp8`."""

import math

BLOCK = 128
SCALE_SUFFIX = "_scale_inv"


def scale_shape(rows: int, columns: int, block: tuple[int, int] = (BLOCK, BLOCK)) -> tuple[int, int]:
    """Shape of the scales of a [rows, columns] weight."""
    return math.ceil(rows / block[0]), math.ceil(columns / block[1])
