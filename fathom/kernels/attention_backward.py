"""Causal attention of whole sequences with a backward of its own, for training on a CPU.

B sequences, T tokens, H heads, K head size of queries and keys, W of values (at most K).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.kernels.passes import causal_softmax, causal_softmax_backward


def trains_causally(query_BTHK: Tensor, key_BSGK: Tensor, mask_BTS: Tensor | None) -> bool:
    """Whether whole sequences attend causally, with a key per query head, on a CPU and with gradients."""
    same = query_BTHK.shape == key_BSGK.shape and mask_BTS is None
    wanted = torch.is_grad_enabled() and query_BTHK.requires_grad
    return same and wanted and query_BTHK.device.type == "cpu" and query_BTHK.shape[1] > 1


def attend_causally(query_BTHK: Tensor, key_BTHK: Tensor, value_BTHW: Tensor, scale: float) -> Tensor:
    """Equal to `fathom.kernels.attention.attend` without a mask, gradients too (tests); returns [B, T, H, W]."""
    result: Tensor = _CausalAttention.apply(query_BTHK, key_BTHK, value_BTHW, scale)  # type: ignore[no-untyped-call]
    return result


class _CausalAttention(torch.autograd.Function):
    """PyTorch's fused forward, and a backward of whole products: its own runs at a fraction of a matrix unit's rate.

    The weights are computed again, sequence by sequence, so that H*T*T numbers exist at once.
    """

    @staticmethod
    def forward(ctx: Any, query_BTHK: Tensor, key_BTHK: Tensor, value_BTHW: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(query_BTHK, key_BTHK, value_BTHW)
        ctx.scale = scale
        query, key, value = (tensor.transpose(1, 2) for tensor in (query_BTHK, key_BTHK, value_BTHW))
        padding = key.shape[3] - value.shape[3]
        out = F.scaled_dot_product_attention(query, key, F.pad(value, (0, padding)), is_causal=True, scale=scale)
        return out.transpose(1, 2)[..., : value.shape[3]]

    @staticmethod
    def backward(ctx: Any, gradient_BTHW: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        tensors = [tensor.transpose(1, 2).contiguous() for tensor in (*ctx.saved_tensors, gradient_BTHW)]
        query_gradient, key_gradient, value_gradient = (torch.empty_like(tensor) for tensor in tensors[:3])
        for row, (query_HTK, key_HTK, value_HTW, gradient_HTW) in enumerate(zip(*tensors, strict=True)):
            weights_HTT = causal_softmax(torch.bmm(query_HTK, key_HTK.transpose(1, 2)), ctx.scale)
            torch.bmm(weights_HTT.transpose(1, 2), gradient_HTW, out=value_gradient[row])
            toward_HTT = torch.bmm(gradient_HTW, value_HTW.transpose(1, 2))
            toward_HTT = causal_softmax_backward(weights_HTT, toward_HTT, ctx.scale)
            torch.bmm(toward_HTT, key_HTK, out=query_gradient[row])
            torch.bmm(toward_HTT.transpose(1, 2), query_HTK, out=key_gradient[row])
        query, key, value = (tensor.transpose(1, 2) for tensor in (query_gradient, key_gradient, value_gradient))
        return query, key, value, None
