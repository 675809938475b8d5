"""What a training step does besides matrix products, each with a backward of its own.

Autograd's chains of small operations read and write float32 copies of every activation a dozen times; on a CPU with AMX
that costs several times the products. Each pass here has a readable form in PyTorch, which is what it computes, and
runs natively where `fathom/kernels/cpu/training.py` has a library and the tensors fit.

N tokens, D hidden size, K choices, P rows sorted by expert and padded, F width, T tokens of a sequence, H heads.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.kernels.cpu.training import library_for


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight over the last dimension, in float32; differentiable."""
    if not torch.is_grad_enabled() or x.device.type != "cpu":
        return F.rms_norm(x, weight_D.shape, weight_D, eps)
    result: Tensor = _RMSNorm.apply(x, weight_D, eps)  # type: ignore[no-untyped-call]
    return result


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight_D)
        ctx.eps = eps
        library, size = library_for(x, weight_D), x.shape[-1]
        if library is None or x.dtype != weight_D.dtype:
            return F.rms_norm(x, weight_D.shape, weight_D, eps)
        out = torch.empty_like(x)
        library.call("rms_norm", x.dtype, x, weight_D, out, x.numel() // size, size, eps)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight_D = ctx.saved_tensors
        gradient, size = gradient.contiguous(), x.shape[-1]
        library = library_for(x, weight_D, gradient)
        if library is None or x.dtype != weight_D.dtype:
            return *rms_norm_backward(x, weight_D, gradient, ctx.eps), None
        out, sums = torch.empty_like(x), torch.empty(size)
        library.call("rms_norm_backward", x.dtype, x, weight_D, gradient, out, sums, x.numel() // size, size, ctx.eps)
        return out, sums.to(weight_D.dtype), None


def rms_norm_backward(x: Tensor, weight_D: Tensor, gradient: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The gradients of x and weight: dx = r (g w - n mean(g w n)) with r = 1/rms and n = x r; dw = sum g n."""
    size = x.shape[-1]
    x_ND, gradient_ND, weight = x.reshape(-1, size).float(), gradient.reshape(-1, size).float(), weight_D.float()
    inverse_N1 = (x_ND.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    normed_ND = x_ND * inverse_N1
    both_ND = gradient_ND * normed_ND
    mean_N1 = (both_ND * weight).mean(dim=-1, keepdim=True)
    out_ND = (gradient_ND * weight - normed_ND * mean_N1) * inverse_N1
    return out_ND.to(x.dtype).view(x.shape), both_ND.sum(dim=0).to(weight_D.dtype)


def swiglu(both_PG: Tensor) -> Tensor:
    """silu(gate) * up of rows [gate F ; up F]; has no gradient, see `swiglu_backward`."""
    library, (rows, double) = library_for(both_PG), both_PG.shape
    if library is None:
        gate_PF, up_PF = both_PG.float().chunk(2, dim=-1)
        return (F.silu(gate_PF) * up_PF).to(both_PG.dtype)
    inner_PF = both_PG.new_empty(rows, double // 2)
    library.call("swiglu", both_PG.dtype, both_PG, inner_PF, rows, double // 2)
    return inner_PF


def swiglu_backward(
    both_PG: Tensor, gradient_PF: Tensor, weights_P: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Go back through weight * silu(gate) * up.

    `gradient_PF` is that of the row before its weight is applied (the weight commutes with the product after it).
    Returns the weighted inner_PF, the gradient of both_PG, and that of weights_P (float32; None without weights).
    """
    library, (rows, width) = library_for(both_PG, gradient_PF), gradient_PF.shape
    if library is None:
        return _swiglu_backward(both_PG, gradient_PF, weights_P)
    inner_PF, both_gradient = torch.empty_like(gradient_PF), torch.empty_like(both_PG)
    weights_gradient = None if weights_P is None else torch.empty_like(weights_P)
    pointers = (both_PG, gradient_PF, weights_P, inner_PF, both_gradient, weights_gradient)
    library.call("swiglu_backward", both_PG.dtype, *pointers, rows, width)
    return inner_PF, both_gradient, weights_gradient


def _swiglu_backward(
    both_PG: Tensor, gradient_PF: Tensor, weights_P: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    (gate_PF, up_PF), gradient_PF = both_PG.float().chunk(2, dim=-1), gradient_PF.float()
    sigmoid_PF = gate_PF.sigmoid()
    silu_PF = gate_PF * sigmoid_PF
    inner_PF = silu_PF * up_PF
    weights_gradient = None
    if weights_P is not None:
        weights_gradient = (gradient_PF * inner_PF).sum(dim=-1)
        inner_PF, gradient_PF = inner_PF * weights_P[:, None], gradient_PF * weights_P[:, None]
    gate_gradient = gradient_PF * up_PF * (sigmoid_PF + silu_PF * (1 - sigmoid_PF))
    both_gradient = torch.cat((gate_gradient, gradient_PF * silu_PF), dim=-1)
    return inner_PF.to(both_PG.dtype), both_gradient.to(both_PG.dtype), weights_gradient


def gather(from_ND: Tensor, source_P: Tensor) -> Tensor:
    """from_ND[source_P]; has no gradient."""
    library = library_for(from_ND)
    if library is None:
        return from_ND[source_P]
    out_PD = from_ND.new_empty(source_P.shape[0], from_ND.shape[1])
    library.call("gather", from_ND.dtype, from_ND, source_P, out_PD, *out_PD.shape)
    return out_PD


def weighted_sum(rows_PD: Tensor, position_NK: Tensor, weights_NK: Tensor | None) -> Tensor:
    """sum_k weights[n, k] * rows[position[n, k]] in float32 in the order of k, [N, D]; has no gradient."""
    library, (tokens, choices) = library_for(rows_PD), position_NK.shape
    if library is None:
        rows_NKD = rows_PD[position_NK].float()
        return (rows_NKD if weights_NK is None else rows_NKD * weights_NK[:, :, None]).sum(dim=1).to(rows_PD.dtype)
    out_ND = rows_PD.new_empty(tokens, rows_PD.shape[1])
    library.call(
        "weighted_sum", rows_PD.dtype, rows_PD, position_NK, weights_NK, out_ND, tokens, choices, rows_PD.shape[1]
    )
    return out_ND


def cross_entropy_gradient(logits_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of -log softmax(logits)[target] over rows with a target >= 0 in float32, and its gradient of the logits.

    The gradient, softmax - one_hot, may overwrite the logits.
    """
    library = library_for(logits_CV)
    if library is None:
        return _cross_entropy_gradient(logits_CV, targets_C)
    losses_C = torch.empty(logits_CV.shape[0])
    library.call("cross_entropy", logits_CV.dtype, logits_CV, targets_C.contiguous(), losses_C, *logits_CV.shape)
    return losses_C.sum(), logits_CV


def _cross_entropy_gradient(logits_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor]:
    log_probabilities_CV = logits_CV.float().log_softmax(dim=-1)
    counted_C = targets_C >= 0
    chosen_C1 = targets_C.clamp_min(0)[:, None]
    loss = -log_probabilities_CV.gather(1, chosen_C1)[:, 0].mul(counted_C).sum()
    gradient_CV = log_probabilities_CV.exp_()
    gradient_CV.scatter_add_(1, chosen_C1, -counted_C[:, None].to(gradient_CV.dtype))
    return loss, gradient_CV.mul_(counted_C[:, None]).to(logits_CV.dtype)


def causal_softmax(scores_HTT: Tensor, scale: float) -> Tensor:
    """softmax(scale * scores) over the keys up to each query, 0 after it; may overwrite the scores; no gradient."""
    library, tokens = library_for(scores_HTT), scores_HTT.shape[-1]
    if library is None:
        hidden = torch.ones(tokens, tokens, dtype=torch.bool, device=scores_HTT.device).triu(1)
        return (scores_HTT.float() * scale).masked_fill(hidden, float("-inf")).softmax(dim=-1).to(scores_HTT.dtype)
    library.call("causal_softmax", scores_HTT.dtype, scores_HTT, scores_HTT.numel() // tokens, tokens, scale)
    return scores_HTT


def causal_softmax_backward(weights_HTT: Tensor, gradient_HTT: Tensor, scale: float) -> Tensor:
    """The gradient of the scores, given the weights and their gradient, which may be overwritten."""
    library, tokens = library_for(weights_HTT, gradient_HTT), weights_HTT.shape[-1]
    if library is None:
        product = weights_HTT.float() * gradient_HTT
        return ((product - weights_HTT * product.sum(dim=-1, keepdim=True)) * scale).to(gradient_HTT.dtype)
    rows = weights_HTT.numel() // tokens
    library.call("causal_softmax_backward", weights_HTT.dtype, weights_HTT, gradient_HTT, rows, tokens, scale)
    return gradient_HTT


def rotate_pairs(x_NHP: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the adjacent pairs (2i, 2i + 1) of x by angles [N, P/2], in float32; differentiable."""
    if not torch.is_grad_enabled() or library_for(cos, sin, x_NHP[:0]) is None or x_NHP.stride(-1) != 1:
        return _rotate_pairs(x_NHP, cos, sin)
    result: Tensor = _RotatePairs.apply(x_NHP, cos, sin)  # type: ignore[no-untyped-call]
    return result


def _rotate_pairs(x_NHP: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = torch.unflatten(x_NHP.float(), -1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    turned = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.flatten(-2).to(x_NHP.dtype)


class _RotatePairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NHP: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x_NHP, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, gradient_NHP: Tensor) -> tuple[Tensor, None, None]:
        if gradient_NHP.stride(-1) != 1:
            gradient_NHP = gradient_NHP.contiguous()
        cos, sin = ctx.saved_tensors
        return _turned(gradient_NHP, cos, sin, -1.0), None, None


def _turned(x_NHP: Tensor, cos: Tensor, sin: Tensor, direction: float) -> Tensor:
    library = library_for(cos, sin)
    assert library is not None
    (rows, heads, size), (row_stride, head_stride, _) = x_NHP.shape, x_NHP.stride()
    out_NHP = x_NHP.new_empty(x_NHP.shape)
    sizes = (rows, heads, size // 2, row_stride, head_stride)
    library.call("rotate_pairs", x_NHP.dtype, x_NHP, cos, sin, out_NHP, *sizes, direction)
    return out_NHP


def adamw(
    weight: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    scale: float,
    decay: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: float,
    root: float,
) -> None:
    """Update float32 weight and both moments in place (Loshchilov and Hutter 2019, algorithm 2), arithmetic in float32.

    The gradient counts times `scale`; `decay` multiplies the weight, `step` is rate / (1 - beta1^t), `root` the square
    root of 1 - beta2^t.
    """
    library = library_for(weight, gradient, first, second)
    if library is not None and weight.dtype == gradient.dtype == torch.float32:
        numbers = (scale, decay, beta1, beta2, eps, step, root)
        library.call("adamw", first.dtype, weight, gradient, first, second, weight.numel(), *numbers)
        return
    gradient = gradient * scale
    new_first = first.float().lerp_(gradient, 1 - beta1)
    new_second = second.float().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    first.copy_(new_first)
    second.copy_(new_second)
    weight.mul_(decay).addcdiv_(new_first, (new_second.sqrt() / root).add_(eps), value=-step)
