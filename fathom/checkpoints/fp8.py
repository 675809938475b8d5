"""DeepSeek's FP8 checkpoints: E4M3 weights with one scale per 128x128 block (DeepSeek-V3 report, section 3.3.2).

Stored as `NAME.weight` in F8_E4M3 and `NAME.weight_scale_inv` in float32 of shape [ceil(out/128), ceil(in/128)]; the
last block of a side may be partial. The value is weight * scale_inv (README_WEIGHTS.md of DeepSeek-V3: "weight block *
scale"). From V3.1 on, scales are powers of two (UE8M0), stored as float32 or as F8_E8M0.
"""

import torch
from torch import Tensor

from fathom.checkpoints.errors import MismatchError
from fathom.checkpoints.fp8_layout import BLOCK as BLOCK
from fathom.checkpoints.fp8_layout import SCALE_SUFFIX as SCALE_SUFFIX
from fathom.checkpoints.fp8_layout import scale_shape as scale_shape

_LARGEST = 448.0  # the largest finite E4M3 number
_STRIP_ROWS = 8 * BLOCK


def dequantise_fp8(
    weight_OI: Tensor, scale_inv: Tensor, dtype: torch.dtype = torch.bfloat16, block: tuple[int, int] = (BLOCK, BLOCK)
) -> Tensor:
    """Return weight * scale of its block, computed in float32, rounded once to `dtype`; [out, in].

    Works in strips, so that the float32 intermediate stays small beside the result.
    """
    rows, columns = weight_OI.shape
    if tuple(scale_inv.shape) != scale_shape(rows, columns, block):
        raise MismatchError(
            f"a {rows}x{columns} FP8 weight needs scales of shape {scale_shape(rows, columns, block)}, "
            f"these have {tuple(scale_inv.shape)}"
        )
    scales = scale_inv.to(torch.float32)
    result = torch.empty(rows, columns, dtype=dtype, device=weight_OI.device)
    strip = max(1, _STRIP_ROWS // block[0])
    for first in range(0, scales.shape[0], strip):
        top, bottom = first * block[0], min((first + strip) * block[0], rows)
        values = weight_OI[top:bottom].to(torch.float32)
        values *= _spread(scales[first : first + strip], bottom - top, columns, block)
        result[top:bottom] = values
    return result


def quantise_fp8(weight_OI: Tensor, *, powers_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """The inverse: (E4M3 weight [out, in], float32 scale_inv); each block's largest magnitude becomes 448.

    Args:
        weight_OI: any float dtype.
        powers_of_two: round scales up to powers of two (UE8M0, V3.1 and later), so that scaling is exact.

    """
    rows, columns = weight_OI.shape
    grid = scale_shape(rows, columns)
    padded = torch.zeros(grid[0] * BLOCK, grid[1] * BLOCK, device=weight_OI.device)
    padded[:rows, :columns] = weight_OI
    largest = padded.abs().view(grid[0], BLOCK, grid[1], BLOCK).amax(dim=(1, 3))
    # A block whose magnitudes underflow a float32 scale keeps the smallest normal one.
    scales = torch.where(largest > 0, largest / _LARGEST, 1.0).clamp_min(torch.finfo(torch.float32).tiny)
    if powers_of_two:
        mantissa, exponent = torch.frexp(scales)
        scales = torch.ldexp(torch.ones_like(scales), torch.where(mantissa == 0.5, exponent - 1, exponent))
    scaled = padded[:rows, :columns] / _spread(scales, rows, columns, (BLOCK, BLOCK))
    return scaled.clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn), scales


def _spread(scales: Tensor, rows: int, columns: int, block: tuple[int, int]) -> Tensor:
    """Each scale repeated over its block, [rows, columns]."""
    wide = scales.repeat_interleave(block[1], dim=1)[:, :columns]
    return wide.repeat_interleave(block[0], dim=0)[:rows]
