"""Feed-forward and mixture of experts with backwards of their own, for training.

Autograd would keep seven tensors of M rows and add the gradients of gathered rows one by one; here one is kept and
every gradient is a product or a gather. Rows of an expert are padded to whole tiles: oneDNN compiles a kernel for every
shape it meets, and unpadded groups have new shapes in every step (docs/log.md).

N tokens, K experts chosen by each, M = N*K choices, P rows after padding, E experts, D hidden size, F width, G = 2F.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.kernels.passes import gather, swiglu, swiglu_backward, weighted_sum
from fathom.kernels.products import FULL, Products

TILE = 64  # rows


class PaddedOrder(NamedTuple):
    """Where the choices lie when sorted by expert, every expert's rows filled up to whole tiles."""

    source_P: Tensor  # the token of every row; fillers repeat token 0 and count nothing
    choice_P: Tensor  # the flat choice token*K+k of every row; M for fillers
    position_NK: Tensor  # the row of every choice
    ends_E: Tensor  # int32, where the rows of each expert end


def padded_order(selected_NK: Tensor, experts: int, tile: int = TILE) -> PaddedOrder:
    """Sort the choices by expert, stable, and lay them out in tiles."""
    tokens, choices = selected_NK.shape
    flat_M = selected_NK.reshape(-1)
    counts_E = torch.bincount(flat_M, minlength=experts)
    padded_E = (counts_E + (tile - 1)) // tile * tile
    ends_E = padded_E.cumsum(0)
    order_M = torch.argsort(flat_M, stable=True)
    shift_E = (ends_E - padded_E) - (counts_E.cumsum(0) - counts_E)  # fillers before each expert
    rows_M = torch.arange(flat_M.numel(), device=flat_M.device) + shift_E[flat_M[order_M]]
    choice_P = flat_M.new_full((int(ends_E[-1]),), flat_M.numel()).scatter_(0, rows_M, order_M)
    position_M = torch.empty_like(order_M).scatter_(0, order_M, rows_M)
    source_P = (choice_P // choices).where(choice_P < flat_M.numel(), 0)
    return PaddedOrder(source_P, choice_P, position_M.view(tokens, choices), ends_E.to(torch.int32))


def trained_experts(
    hidden_ND: Tensor,
    selected_NK: Tensor,
    weights_NK: Tensor,
    gate_EFD: Tensor,
    up_EFD: Tensor,
    down_EDF: Tensor,
    products: Products = FULL,
) -> Tensor:
    """Equal to `fathom.kernels.experts.grouped_experts`, gradients too (tests); `products` chooses the precision."""
    arguments = (hidden_ND, selected_NK, weights_NK.float(), gate_EFD, up_EFD, down_EDF, products)
    result: Tensor = _TrainedExperts.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


class _TrainedExperts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        selected_NK: Tensor,
        weights_NK: Tensor,
        gate_EFD: Tensor,
        up_EFD: Tensor,
        down_EDF: Tensor,
        products: Products,
    ) -> Tensor:
        hidden_ND = hidden_ND.contiguous()
        order = padded_order(selected_NK, gate_EFD.shape[0])
        both_EGD = torch.cat((gate_EFD, up_EFD), dim=1)  # one product for gate and up
        both_PG = products.grouped(gather(hidden_ND, order.source_P), both_EGD, order.ends_E)
        out_PD = products.grouped(swiglu(both_PG), down_EDF, order.ends_E)
        ctx.save_for_backward(hidden_ND, weights_NK, both_EGD, down_EDF, both_PG, *order)
        ctx.products = products
        return weighted_sum(out_PD, order.position_NK, weights_NK)

    @staticmethod
    def backward(ctx: Any, out_ND: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weights_NK, both_EGD, down_EDF, both_PG, *rest = ctx.saved_tensors
        order, products = PaddedOrder(*rest), ctx.products
        weights_P = F.pad(weights_NK.reshape(-1), (0, 1))[order.choice_P]  # fillers: 0
        out_PD = gather(out_ND.contiguous(), order.source_P)
        plain_PF = products.grouped_input(out_PD, down_EDF, order.ends_E)
        inner_PF, both_gradient, toward_P = swiglu_backward(both_PG, plain_PF, weights_P)
        assert toward_P is not None
        gradients: tuple[Tensor | None, ...] = (None, None, None)
        if any(ctx.needs_input_grad[3:6]):
            down_gradient = products.grouped_weight(out_PD, inner_PF, order.ends_E)
            gate_up = products.grouped_weight(both_gradient, gather(hidden_ND, order.source_P), order.ends_E)
            gradients = (*gate_up.chunk(2, dim=1), down_gradient)
        rows_PD = products.grouped_input(both_gradient, both_EGD, order.ends_E)
        hidden_gradient = weighted_sum(rows_PD, order.position_NK, None)
        weights_gradient = toward_P[order.position_NK]
        return hidden_gradient, None, weights_gradient, *gradients, None


def trained_feed_forward(
    x: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor, products: Products = FULL
) -> Tensor:
    """down(silu(gate(x)) * up(x)); `products` chooses the precision."""
    result: Tensor = _TrainedFeedForward.apply(x, gate_FD, up_FD, down_DF, products)  # type: ignore[no-untyped-call]
    return result


class _TrainedFeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor, products: Products) -> Tensor:
        rows_ND = x.reshape(-1, x.shape[-1])
        both_GD = torch.cat((gate_FD, up_FD))
        both_NG = products.forward(rows_ND, both_GD)
        ctx.save_for_backward(rows_ND, both_GD, down_DF, both_NG)
        ctx.products, ctx.shape = products, x.shape
        return products.forward(swiglu(both_NG), down_DF).view(x.shape)

    @staticmethod
    def backward(ctx: Any, out: Tensor) -> tuple[Tensor | None, ...]:
        rows_ND, both_GD, down_DF, both_NG = ctx.saved_tensors
        products, out_ND = ctx.products, out.reshape(rows_ND.shape)
        inner_NF, both_gradient, _ = swiglu_backward(both_NG, products.input(out_ND, down_DF), None)
        gradients: tuple[Tensor | None, ...] = (None, None, None)
        if any(ctx.needs_input_grad[1:4]):
            gradients = (*products.weight(both_gradient, rows_ND).chunk(2), products.weight(out_ND, inner_NF))
        rows_gradient = products.input(both_gradient, both_GD).view(ctx.shape)
        return rows_gradient, *gradients, None
