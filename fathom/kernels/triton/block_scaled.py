"""FP8 matrix products with DeepSeek-V3's scales: activations per 1x128 tile, weights per 128x128 block (section 3.3.2).

Both operands are E4M3. Every 128 products along K the tensor core's sum is scaled and added in float32 ("promotion",
section 3.3.2, figure 7b), since Hopper's FP8 accumulator keeps about 14 bits.

M rows, N outputs, K inputs, KB = ceil(K/128), NB = ceil(N/128).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128
LARGEST = 448.0  # the largest finite E4M3 number


def quantise_tiles(x_MK: Tensor) -> tuple[Tensor, Tensor]:
    """Return E4M3 [M, K] and float32 scales [M, KB]: the largest magnitude of each 1x128 tile becomes 448."""
    rows, columns = x_MK.shape
    values = torch.empty(rows, columns, dtype=torch.float8_e4m3fn, device=x_MK.device)
    scales = torch.empty(rows, triton.cdiv(columns, BLOCK), dtype=torch.float32, device=x_MK.device)
    _quantise[(rows, scales.shape[1])](x_MK.contiguous(), values, scales, columns, BLOCK=BLOCK, LARGEST=LARGEST)
    return values, scales


def block_scaled_linear(
    x_MK: Tensor, x_scales: Tensor, weight_NK: Tensor, weight_scales: Tensor, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """Return x @ weight.T as [M, N] in `dtype`.

    Args:
        x_MK: E4M3, contiguous.
        x_scales: float32 [M, KB].
        weight_NK: E4M3, contiguous.
        weight_scales: float32 [NB, KB], the checkpoint's `weight_scale_inv`.
        dtype: of the result.

    """
    (rows, inner), outputs = x_MK.shape, weight_NK.shape[0]
    out = torch.empty(rows, outputs, dtype=dtype, device=x_MK.device)
    block_m = min(128, max(16, triton.next_power_of_2(rows)))
    grid = (triton.cdiv(rows, block_m), triton.cdiv(outputs, BLOCK))
    _multiply[grid](
        x_MK,
        x_scales,
        weight_NK,
        weight_scales,
        out,
        rows,
        outputs,
        inner,
        triton.cdiv(inner, BLOCK),
        BLOCK_M=block_m,
        BLOCK=BLOCK,
        num_stages=3,
        num_warps=8 if block_m == 128 else 4,
    )
    return out


@triton.jit
def _quantise(x, values, scales, columns, BLOCK: tl.constexpr, LARGEST: tl.constexpr):
    row, tile, tiles = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    column = tile * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    tile_values = tl.load(x + row * columns + column, mask=inside, other=0.0).to(tl.float32)
    largest = tl.max(tl.abs(tile_values), 0)
    scale = tl.where(largest > 0, largest / LARGEST, 1.0)
    scaled = tl.clamp(tile_values / scale, -LARGEST, LARGEST)
    tl.store(values + row * columns + column, scaled.to(values.dtype.element_ty), mask=inside)
    tl.store(scales + row * tiles + tile, scale)


@triton.jit
def _multiply(
    x,
    x_scales,
    weight,
    weight_scales,
    out,
    rows,
    outputs,
    inner,
    tiles,
    BLOCK_M: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    output = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real_row, real_output = row < rows, output < outputs
    total = tl.zeros([BLOCK_M, BLOCK], dtype=tl.float32)
    for tile in range(tiles):
        column = tile * BLOCK + tl.arange(0, BLOCK)
        inside = column < inner
        left = tl.load(x + row[:, None] * inner + column[None, :], mask=real_row[:, None] & inside[None, :], other=0.0)
        right = tl.load(
            weight + output[:, None] * inner + column[None, :], mask=real_output[:, None] & inside[None, :], other=0.0
        )
        left_scale = tl.load(x_scales + row * tiles + tile, mask=real_row, other=0.0)
        right_scale = tl.load(weight_scales + tl.program_id(1) * tiles + tile)
        total += tl.dot(left, tl.trans(right)) * (left_scale * right_scale)[:, None]
    place = out + row[:, None] * outputs + output[None, :]
    tl.store(place, total.to(out.dtype.element_ty), mask=real_row[:, None] & real_output[None, :])
