"""FP8 products as DeepSeek-V3 trains with them (section 3.3), computed on any device to the last bit.

Operands are E4M3 with online scales: activations and gradients one per tile of 128 along the summed dimension, weights
one per 128x128 block. The sum over a tile is taken exactly and rounded to float32, then scaled and added to a float32
accumulator: the report promotes its partial sums every 128 elements (section 3.3.2). Exact tile sums do not depend on
the order of additions, so this is the twin that kernels are held against; what hardware keeps inside a tile is less.

M rows, K summed elements, N columns, S = ceil(K/128) tiles, D inputs, F outputs, E experts.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.kernels.products import Products

TILE = 128
LARGEST = 448.0  # the largest finite E4M3 number


class Scaled(NamedTuple):
    """values_MK in E4M3 and their scales, float32: the number is value * scale."""

    values_MK: Tensor
    scales_MS: Tensor  # for every row, or of shape [ceil(M/128), S]: for every block of 128 rows


def quantise_tiles(x_MK: Tensor) -> Scaled:
    """One scale per row and 128 columns: the largest magnitude becomes 448. A tile of zeros has scale 1."""
    rows, columns = x_MK.shape
    tiles = -(-columns // TILE)
    padded_MST = F.pad(x_MK.float(), (0, tiles * TILE - columns)).view(rows, tiles, TILE)
    scales_MS = _scale_of(padded_MST.abs().amax(dim=2))
    values = (padded_MST / scales_MS[:, :, None]).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    return Scaled(values.view(rows, tiles * TILE)[:, :columns], scales_MS)


def quantise_blocks(weight_NK: Tensor) -> Scaled:
    """One scale per 128 rows and 128 columns; a block at the edge may be partial."""
    rows, columns = weight_NK.shape
    down, across = -(-rows // TILE), -(-columns // TILE)
    padded = F.pad(weight_NK.float(), (0, across * TILE - columns, 0, down * TILE - rows))
    blocks = padded.view(down, TILE, across, TILE)
    scales = _scale_of(blocks.abs().amax(dim=(1, 3)))
    values = (blocks / scales[:, None, :, None]).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    return Scaled(values.view(down * TILE, across * TILE)[:rows, :columns], scales)


def _scale_of(largest: Tensor) -> Tensor:
    tiny = torch.finfo(torch.float32).tiny  # magnitudes so small that their scale would underflow
    return torch.where(largest > 0, largest / LARGEST, 1.0).clamp_min(tiny)


def scaled_product(left: Scaled, right: Scaled) -> Tensor:
    """Left right^T in float32, [M, N]: exact sums of 128 products, promoted to float32, scaled, added in order."""
    (rows, columns), outputs = left.values_MK.shape, right.values_MK.shape[0]
    left_scales, right_scales = _per_row(left.scales_MS, rows), _per_row(right.scales_MS, outputs)
    out_MN = torch.zeros(rows, outputs, device=left.values_MK.device)
    for tile, start in enumerate(range(0, columns, TILE)):
        part = slice(start, start + TILE)
        exact_MN = left.values_MK[:, part].double() @ right.values_MK[:, part].double().t()
        out_MN += exact_MN.float() * (left_scales[:, tile, None] * right_scales[None, :, tile])
    return out_MN


def _per_row(scales: Tensor, rows: int) -> Tensor:
    return scales if scales.shape[0] == rows else scales.repeat_interleave(TILE, dim=0)[:rows]


class Fp8Products(Products):
    """Fprop, Dgrad and Wgrad with E4M3 operands; results in the dtype of the rows.

    Fprop tiles the activations along the inputs and Dgrad the gradients along the outputs, both against the weight's
    128x128 blocks; Wgrad sums over rows, so both of its operands are tiled along them (the report's 128x1 tiles).
    """

    def forward(self, rows_MD: Tensor, weight_FD: Tensor) -> Tensor:
        """Fprop: rows_MF."""
        return scaled_product(quantise_tiles(rows_MD), quantise_blocks(weight_FD)).to(rows_MD.dtype)

    def input(self, gradient_MF: Tensor, weight_FD: Tensor) -> Tensor:
        """Dgrad: [M, D]."""
        return self.forward(gradient_MF, weight_FD.t())

    def weight(self, gradient_MF: Tensor, rows_MD: Tensor) -> Tensor:
        """Wgrad: [F, D]."""
        return scaled_product(quantise_tiles(gradient_MF.t()), quantise_tiles(rows_MD.t())).to(rows_MD.dtype)

    def grouped(self, rows_MD: Tensor, weight_EFD: Tensor, ends_E: Tensor) -> Tensor:
        """Fprop: rows_MF."""
        spans = _spans(ends_E)
        return torch.cat([self.forward(rows_MD[span], weight) for span, weight in zip(spans, weight_EFD, strict=True)])

    def grouped_input(self, gradient_MF: Tensor, weight_EFD: Tensor, ends_E: Tensor) -> Tensor:
        """Dgrad: [M, D]."""
        return self.grouped(gradient_MF, weight_EFD.transpose(1, 2), ends_E)

    def grouped_weight(self, gradient_MF: Tensor, rows_MD: Tensor, ends_E: Tensor) -> Tensor:
        """Wgrad: [E, F, D]."""
        return torch.stack([self.weight(gradient_MF[span], rows_MD[span]) for span in _spans(ends_E)])


def _spans(ends_E: Tensor) -> list[slice]:
    ends = ends_E.tolist()
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


FP8 = Fp8Products()
