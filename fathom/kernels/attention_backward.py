"""Causal attention of whole sequences with a backward of its own, for training on a CPU.

B sequences, T tokens, H heads, K head size of queries and keys, W of values (at most K).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.kernels.passes import causal_softmax, causal_softmax_backward


def trains_causally(query_BTHK: Tensor, key_BSGK: Tensor, mask_BTS: Tensor | None) -> bool:
    """Whether whole sequences attend causally, on a CPU and with gradients."""
    same = query_BTHK.shape[1] == key_BSGK.shape[1] and mask_BTS is None
    wanted = torch.is_grad_enabled() and query_BTHK.requires_grad
    return same and wanted and query_BTHK.device.type == "cpu" and query_BTHK.shape[1] > 1


def attend_causally(query_BTHK: Tensor, key_BTGK: Tensor, value_BTGW: Tensor, scale: float) -> Tensor:
    """Equal to `fathom.kernels.attention.attend` without a mask, gradients too (tests); returns [B, T, H, W]."""
    result: Tensor = _CausalAttention.apply(query_BTHK, key_BTGK, value_BTGW, scale)  # type: ignore[no-untyped-call]
    return result


class _CausalAttention(torch.autograd.Function):
    """PyTorch's fused forward, and a backward of whole products: its own runs at a fraction of a matrix unit's rate.

    The weights are computed again, sequence by sequence, so that H*T*T numbers exist at once. With fewer key heads than
    query heads, the queries that share a key are rows of one product: J = H/G times T of them (letter Q).
    """

    @staticmethod
    def forward(ctx: Any, query_BTHK: Tensor, key_BTGK: Tensor, value_BTGW: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(query_BTHK, key_BTGK, value_BTGW)
        ctx.scale = scale
        query, key, value = (tensor.transpose(1, 2) for tensor in (query_BTHK, key_BTGK, value_BTGW))
        value = F.pad(value, (0, key.shape[3] - value.shape[3]))
        shares = query.shape[1] != key.shape[1]
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=shares)
        return out.transpose(1, 2)[..., : value_BTGW.shape[3]]

    @staticmethod
    def backward(ctx: Any, gradient_BTHW: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query_BTHK, key_BTGK, value_BTGW = ctx.saved_tensors
        groups, tokens, heads = key_BTGK.shape[2], query_BTHK.shape[1], query_BTHK.shape[2]
        queries = [tensor.transpose(1, 2).contiguous() for tensor in (query_BTHK, gradient_BTHW)]
        keys = [tensor.transpose(1, 2).contiguous() for tensor in (key_BTGK, value_BTGW)]
        query, gradient = (tensor.view(tensor.shape[0], groups, -1, tensor.shape[3]) for tensor in queries)
        query_gradient, key_gradient, value_gradient = (torch.empty_like(tensor) for tensor in (query, *keys))
        for row, (query_GQK, gradient_GQW, key_GTK, value_GTW) in enumerate(zip(query, gradient, *keys, strict=True)):
            scores_GQT = torch.bmm(query_GQK, key_GTK.transpose(1, 2))
            weights_HTT = causal_softmax(scores_GQT.view(heads, tokens, tokens), ctx.scale)
            weights_GQT = weights_HTT.view_as(scores_GQT)
            torch.bmm(weights_GQT.transpose(1, 2), gradient_GQW, out=value_gradient[row])
            toward_HTT = torch.bmm(gradient_GQW, value_GTW.transpose(1, 2)).view(heads, tokens, tokens)
            toward_GQT = causal_softmax_backward(weights_HTT, toward_HTT, ctx.scale).view_as(scores_GQT)
            torch.bmm(toward_GQT, key_GTK, out=query_gradient[row])
            torch.bmm(toward_GQT.transpose(1, 2), query_GQK, out=key_gradient[row])
        query_gradient = query_gradient.view_as(queries[0])
        return query_gradient.transpose(1, 2), key_gradient.transpose(1, 2), value_gradient.transpose(1, 2), None
