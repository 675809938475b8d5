"""The smallest parts: norm, linear layer, gated feed-forward. Weights are drawn once, by `Transformer.initialise`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.kernels.feed_forward import trained_feed_forward
from fathom.kernels.passes import rms_norm
from fathom.kernels.products import FULL, Products, linear


class Linear(nn.Linear):
    """`nn.Linear` that leaves its weights undrawn, so a model about to be loaded is not initialised in vain.

    `products`: how its three products are computed in training.
    """

    products: Products = FULL

    def reset_parameters(self) -> None:
        """Do nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., outputs] for [..., inputs]."""
        if self.products is FULL:
            return super().forward(x)
        return linear(x, self.weight, self.products)


class Embedding(nn.Embedding):
    """`nn.Embedding` that leaves its weights undrawn."""

    def reset_parameters(self) -> None:
        """Do nothing."""


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised x, same shape and dtype."""
        return rms_norm(x, self.weight, self.eps)


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden, width, bias=False)
        self.up_proj = Linear(hidden, width, bias=False)
        self.down_proj = Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., hidden] for [..., hidden]."""
        weights = (self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)
        plain = all(_is_untouched(one) for one in (self.gate_proj, self.up_proj, self.down_proj))
        if plain and torch.is_grad_enabled() and x.device.type == "cpu":
            return trained_feed_forward(x, *weights, self.gate_proj.products)
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


def _is_untouched(layer: nn.Module) -> bool:
    """Whether a layer is just its weight: nothing from outside, such as a low-rank adapter, takes part in it."""
    return type(layer) is Linear and not layer._forward_hooks and "forward" not in vars(layer)
