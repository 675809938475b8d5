"""Next-token loss without the logits of all rows: N rows, D hidden size, V vocabulary, C rows of a chunk."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.kernels.passes import cross_entropy_gradient

IGNORED = -100  # a target that counts for nothing


def plain_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """The readable twin: the sum over rows of -log softmax(hidden weight^T)[target], float32; IGNORED rows count 0."""
    return F.cross_entropy(F.linear(hidden_ND, weight_VD).float(), targets_N, ignore_index=IGNORED, reduction="sum")


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The gradient of the logits, softmax - one_hot, is known when the loss is: it is used at once and dropped."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, rows: int, wanted: bool) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        hidden_gradient = torch.empty_like(hidden_ND) if wanted else None
        weight_gradient = torch.zeros_like(weight_VD, dtype=torch.float32) if wanted else None
        for start in range(0, hidden_ND.shape[0], rows):
            hidden_CD, targets_C = hidden_ND[start : start + rows], targets_N[start : start + rows]
            loss, gradient_CV = cross_entropy_gradient(F.linear(hidden_CD, weight_VD), targets_C)
            total += loss
            if hidden_gradient is not None and weight_gradient is not None:
                hidden_gradient[start : start + rows] = gradient_CV @ weight_VD
                weight_gradient += (gradient_CV.t() @ hidden_CD).float()
        if wanted:
            ctx.save_for_backward(hidden_gradient, weight_gradient)
            ctx.weight_dtype = weight_VD.dtype
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        scaled = (weight_gradient * gradient).to(ctx.weight_dtype)
        return (hidden_gradient * gradient).to(hidden_gradient.dtype), scaled, None, None, None


def chunked_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, rows: int = 1024) -> Tensor:
    """Equal to `plain_cross_entropy` in value and gradient, with the logits of `rows` rows at a time.

    What is kept for the backward is the size of hidden and weight, not N x V. The weight's gradient is summed over
    chunks in float32.
    """
    wanted = torch.is_grad_enabled() and (hidden_ND.requires_grad or weight_VD.requires_grad)
    result: Tensor = _ChunkedCrossEntropy.apply(hidden_ND, weight_VD, targets_N, rows, wanted)  # type: ignore[no-untyped-call]
    return result
