"""Low-rank adapters (LoRA, arXiv 2106.09685): what one is, and how a Transformer gets one that learns.

A linear layer y = W x becomes y = W x + scale * B (A x). All of it comes from outside: the model has no flag for it.
M rows, R rank, I and O the input and output size of a layer.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.models.adapter import TARGETS as TARGETS
from fathom.models.adapter import Adapter as Adapter
from fathom.models.transformer import Transformer


class LowRankTraining:
    """An adapter attached to a model: its pairs are float32 parameters, the model's own weights stay as they are.

    The layers compute in the dtype of their input. `detach` leaves the model as it was.

    Args:
        model: the model; its parameters are frozen.
        adapter: where to begin, from `fresh` or from a file. The numbers are copied.

    Raises:
        ValueError: the adapter names layers that the model has not, or of other sizes.

    """

    def __init__(self, model: Transformer, adapter: Adapter) -> None:
        check_fit(model, adapter)
        model.requires_grad_(False)
        self.scale = adapter.scale
        self.parameters: dict[str, nn.Parameter] = {}
        self._layers: list[nn.Linear] = []
        for name, (a_RI, b_OR) in adapter.pairs.items():
            a, b = (nn.Parameter(tensor.detach().clone().float()) for tensor in (a_RI, b_OR))
            self.parameters[f"{name}.A"], self.parameters[f"{name}.B"] = a, b
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            layer.forward = partial(_forward, layer, a, b, self.scale)  # type: ignore[method-assign]
            self._layers.append(layer)

    def adapter(self) -> Adapter:
        """The adapter as it is now; its tensors are the parameters themselves and go on changing with them."""
        names = [name.removesuffix(".A") for name in self.parameters if name.endswith(".A")]
        pairs = {name: (self.parameters[f"{name}.A"].detach(), self.parameters[f"{name}.B"].detach()) for name in names}
        return Adapter(self.scale, pairs)

    def detach(self) -> None:
        """Leave the model as it was before."""
        for layer in self._layers:
            del layer.forward  # the class's own shows again
        self._layers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()


class _LowRankLinear(torch.autograd.Function):
    """W x + bias + scale * B (A x) with W and bias frozen: no gradient of the size of W is ever made, and the adapter's
    part is added in place, forward and backward.
    """

    @staticmethod
    def forward(
        ctx: Any, x_MI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scale: float
    ) -> Tensor:
        a_RI, b_OR = a_RI.to(x_MI.dtype), (scale * b_OR).to(x_MI.dtype)
        narrow_MR = F.linear(x_MI, a_RI)
        out_MO = F.linear(x_MI, weight_OI, bias_O).addmm_(narrow_MR, b_OR.t())
        ctx.save_for_backward(x_MI, narrow_MR, weight_OI, a_RI, b_OR)
        ctx.scale = scale
        return out_MO

    @staticmethod
    def backward(ctx: Any, gradient_MO: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x_MI, narrow_MR, weight_OI, a_RI, b_OR = ctx.saved_tensors
        narrow_gradient_MR = gradient_MO @ b_OR
        a_gradient_RI = (narrow_gradient_MR.t() @ x_MI).float()
        b_gradient_OR = (gradient_MO.t() @ narrow_MR).float() * ctx.scale
        if not ctx.needs_input_grad[0]:
            return None, None, None, a_gradient_RI, b_gradient_OR, None
        x_gradient_MI = (gradient_MO @ weight_OI).addmm_(narrow_gradient_MR, a_RI)
        return x_gradient_MI, None, None, a_gradient_RI, b_gradient_OR, None


def _forward(layer: nn.Linear, a_RI: nn.Parameter, b_OR: nn.Parameter, scale: float, x_MI: Tensor) -> Tensor:
    out: Tensor = _LowRankLinear.apply(x_MI, layer.weight, layer.bias, a_RI, b_OR, scale)  # type: ignore[no-untyped-call]
    return out


def fresh(
    model: Transformer,
    rank: int,
    alpha: float,
    *,
    targets: Sequence[str] = TARGETS,
    first_layer: int = 0,
    generator: torch.Generator | None = None,
) -> Adapter:
    """An adapter that changes nothing yet: A drawn as in LoRA's own code (Kaiming uniform, a = sqrt 5), B zero.

    Its scale is alpha / rank. `targets` are last parts of layer names; those that the architecture has not are skipped.
    Blocks below `first_layer` get none.

    Raises:
        ValueError: no layer of the model is named, or a target that cannot have an adapter.

    """
    beyond = sorted(set(targets) - set(TARGETS))
    if beyond:
        raise ValueError(f"{', '.join(beyond)} cannot have an adapter; these can: {', '.join(TARGETS)}")
    pairs = {}
    for name, layer in linear_layers(model):
        if name.rpartition(".")[2] in targets and int(name.split(".")[2]) >= first_layer:
            bound = 1 / math.sqrt(layer.in_features)
            a_RI = torch.empty(rank, layer.in_features).uniform_(-bound, bound, generator=generator)
            pairs[name] = (a_RI, torch.zeros(layer.out_features, rank))
    if not pairs:
        raise ValueError(f"the model has none of the layers {', '.join(targets)}")
    return Adapter(alpha / rank, pairs)


def linear_layers(model: Transformer) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers of the blocks, by name; those of prediction modules, which only draft, are left out."""
    blocks = tuple(f"model.layers.{layer}." for layer in range(model.config.num_hidden_layers))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.startswith(blocks):
            yield name, module


@torch.no_grad()
def merge(model: Transformer, adapter: Adapter) -> None:
    """Add the adapter to the model's weights, in place: the readable twin of every low-rank path."""
    check_fit(model, adapter)
    for name in adapter.pairs:
        weight_OI = model.get_submodule(name).weight
        assert isinstance(weight_OI, Tensor)
        weight_OI.copy_(weight_OI.float() + adapter.change(name).to(weight_OI.device))


def check_fit(model: Transformer, adapter: Adapter) -> None:
    """Raise ValueError, naming the layer, unless every pair fits a layer of the model."""
    layers = dict(linear_layers(model))
    for name, (a_RI, b_OR) in adapter.pairs.items():
        if name not in layers or name.rpartition(".")[2] not in TARGETS:
            raise ValueError(f"the adapter has a pair for {name}, which is no layer of this model that can have one")
        wanted = (layers[name].in_features, layers[name].out_features)
        if (a_RI.shape[1], b_OR.shape[0]) != wanted or a_RI.shape[0] != b_OR.shape[1]:
            shapes = f"A {list(a_RI.shape)}, B {list(b_OR.shape)}"
            raise ValueError(
                f"the adapter's pair for {name} is {shapes}, the layer goes from {wanted[0]} to {wanted[1]}"
            )
