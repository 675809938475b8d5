"""The three matrix products of a trained linear layer, plain or per expert: the seam where a precision is chosen.

M rows, D inputs, F outputs, E experts. Fprop is `x w^T`, Dgrad `g w`, Wgrad `g^T x` (DeepSeek-V3, section 3.3.1).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.kernels.experts import grouped_linear


class Products:
    """In the dtype of the tensors. `grouped*` take rows sorted by expert, ends_E[e] where those of expert e end."""

    def forward(self, rows_MD: Tensor, weight_FD: Tensor) -> Tensor:
        """Fprop: rows_MF."""
        return F.linear(rows_MD, weight_FD)

    def input(self, gradient_MF: Tensor, weight_FD: Tensor) -> Tensor:
        """Dgrad: the gradient of the rows, [M, D]."""
        return gradient_MF @ weight_FD

    def weight(self, gradient_MF: Tensor, rows_MD: Tensor) -> Tensor:
        """Wgrad: the gradient of the weight, [F, D]."""
        return gradient_MF.t() @ rows_MD

    def grouped(self, rows_MD: Tensor, weight_EFD: Tensor, ends_E: Tensor) -> Tensor:
        """Fprop: rows_MF."""
        return grouped_linear(rows_MD, weight_EFD, ends_E)

    def grouped_input(self, gradient_MF: Tensor, weight_EFD: Tensor, ends_E: Tensor) -> Tensor:
        """Dgrad: the gradient of the rows, [M, D]."""
        return grouped_linear(gradient_MF, weight_EFD.transpose(1, 2), ends_E)

    def grouped_weight(self, gradient_MF: Tensor, rows_MD: Tensor, ends_E: Tensor) -> Tensor:
        """Wgrad: the gradient of the weights, [E, F, D]."""
        ends = ends_E.tolist()
        weight_EFD = gradient_MF.new_empty(len(ends), gradient_MF.shape[1], rows_MD.shape[1])
        for out_FD, start, end in zip(weight_EFD, [0, *ends[:-1]], ends, strict=True):
            torch.mm(gradient_MF[start:end].t(), rows_MD[start:end], out=out_FD)
        return weight_EFD


FULL = Products()


def linear(x: Tensor, weight_FD: Tensor, products: Products) -> Tensor:
    """Return x weight^T with all three products of `products`; differentiable."""
    result: Tensor = _Linear.apply(x, weight_FD, products)  # type: ignore[no-untyped-call]
    return result


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_FD: Tensor, products: Products) -> Tensor:
        ctx.save_for_backward(x, weight_FD)
        ctx.products = products
        return products.forward(x.reshape(-1, x.shape[-1]), weight_FD).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight_FD = ctx.saved_tensors
        gradient_MF, rows_MD = gradient.reshape(-1, gradient.shape[-1]), x.reshape(-1, x.shape[-1])
        rows_gradient = ctx.products.input(gradient_MF, weight_FD).view(x.shape)
        return rows_gradient, ctx.products.weight(gradient_MF, rows_MD), None
