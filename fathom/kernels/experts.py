"""The experts of a mixture, grouped: one sort of the tokens by expert, one grouped product per projection.

N tokens, K experts chosen by each, M = N*K rows, E experts, D hidden size, F width of an expert.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class ExpertOrder(NamedTuple):
    """How the M chosen (token, choice) pairs are sorted by expert."""

    order_M: Tensor  # flat index token*K+choice of every sorted row
    ends_E: Tensor  # int32, where the rows of each expert end


def sort_by_expert(selected_NK: Tensor, experts: int) -> ExpertOrder:
    """Sort the choices by expert, stable, so the rows of one expert stay in the order of the tokens."""
    flat_M = selected_NK.reshape(-1)
    ends_E = torch.bincount(flat_M, minlength=experts).cumsum(0).to(torch.int32)
    return ExpertOrder(torch.argsort(flat_M, stable=True), ends_E)


def grouped_linear(rows_MD: Tensor, weight_EFD: Tensor, ends_E: Tensor) -> Tensor:
    """Multiply the rows of expert e, ends_E[e-1] to ends_E[e], by weight_EFD[e] transposed; returns [M, F]."""
    if _fits_grouped_mm(rows_MD, weight_EFD):
        return F.grouped_mm(rows_MD, weight_EFD.transpose(-2, -1), offs=ends_E)
    return segmented_linear(rows_MD, weight_EFD, ends_E)


def segmented_linear(rows_MD: Tensor, weight_EFD: Tensor, ends_E: Tensor) -> Tensor:
    """The same product, one slice per expert that has rows: for shapes and dtypes `grouped_mm` does not take."""
    ends = ends_E.tolist()
    spans = zip([0, *ends[:-1]], ends, weight_EFD, strict=True)
    parts = [F.linear(rows_MD[start:end], weight) for start, end, weight in spans if end > start]
    return torch.cat(parts) if parts else rows_MD.new_zeros(0, weight_EFD.shape[1])


def grouped_experts(
    hidden_ND: Tensor,
    selected_NK: Tensor,
    weights_NK: Tensor,
    gate_EFD: Tensor,
    up_EFD: Tensor,
    down_EDF: Tensor,
) -> Tensor:
    """Return sum_k weights[n,k] * SwiGLU_selected[n,k](hidden[n]) as [N, D] (DeepSeek-V2, eq. 20; V3, eq. 12).

    The K results of a token are added in float32 in the order of its choices, so a token's sum does not depend on
    which other tokens are in the batch, and no atomic addition makes it vary from run to run. Differentiable.
    """
    order_M, ends_E = sort_by_expert(selected_NK, gate_EFD.shape[0])
    tokens, choices = selected_NK.shape
    rows_MD = hidden_ND[order_M // choices]
    inner_MF = F.silu(grouped_linear(rows_MD, gate_EFD, ends_E)) * grouped_linear(rows_MD, up_EFD, ends_E)
    sorted_MD = grouped_linear(inner_MF, down_EDF, ends_E)
    back_M = torch.empty_like(order_M).scatter_(0, order_M, torch.arange(order_M.numel(), device=order_M.device))
    outputs_NKD = sorted_MD[back_M].view(tokens, choices, hidden_ND.shape[1])
    return (outputs_NKD.float() * weights_NK[:, :, None].float()).sum(1).to(hidden_ND.dtype)


def _fits_grouped_mm(rows_MD: Tensor, weight_EFD: Tensor) -> bool:
    """`grouped_mm` wants rows of 16-byte multiples; on CUDA it is a real kernel for bfloat16 alone."""
    if rows_MD.shape[0] == 0 or (rows_MD.is_cuda and rows_MD.dtype != torch.bfloat16):
        return False
    itemsize = rows_MD.element_size()
    return all(size * itemsize % 16 == 0 for size in weight_EFD.shape[1:])
