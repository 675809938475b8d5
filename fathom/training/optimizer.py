"""AdamW over float32 master weights, clipping of the whole gradient, and an average of the weights.

In bfloat16 the model computes with rounded copies; gradients of the micro-batches are summed into the masters' float32
gradients (V3, section 3.3.2). In float32 master and weight are one tensor.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fathom.kernels.passes import adamw
from fathom.training.recipe import OptimizerSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "fp8": torch.bfloat16}  # of the model's tensors


class MasterWeights:
    """float32 weights by name, and the model's parameters that follow them."""

    def __init__(self, model: nn.Module, precision: str) -> None:
        """Take the float32 weights of `model` for masters and convert the model to `precision`, in place."""
        self.weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
        model.to(DTYPES[precision])
        self._parameters = dict(model.named_parameters())
        self.gradients = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.publish()

    @torch.no_grad()
    def collect(self) -> None:
        """Add the gradients of one micro-batch and clear them; a parameter without one took no part."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self.gradients[name] += parameter.grad
                parameter.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model and clear the gradients."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self.weights[name])
            self.gradients[name].zero_()

    def discard(self) -> None:
        """Clear the gradients of a step that is not taken."""
        for gradient in self.gradients.values():
            gradient.zero_()

    def gradient_norm(self) -> Tensor:
        """The norm of the whole gradient, float32."""
        norms = [torch.linalg.vector_norm(gradient) for gradient in self.gradients.values()]
        total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return total


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), as `torch.optim.AdamW` computes it.

    The moments may be kept in bfloat16 as V3 does (section 3.3.2); the arithmetic is float32. A tensor of fewer than
    two dimensions (norms, biases) does not decay.
    """

    def __init__(self, weights: Mapping[str, Tensor], settings: OptimizerSettings) -> None:
        dtype = DTYPES[settings.moments]
        self._weights, self._settings = weights, settings
        self.first = {name: torch.zeros_like(weight, dtype=dtype) for name, weight in weights.items()}
        self.second = {name: torch.zeros_like(weight, dtype=dtype) for name, weight in weights.items()}
        self.updates = 0

    @property
    def moments(self) -> dict[str, Tensor]:
        """Both moments of every weight, named as checkpoints keep them."""
        first = {f"first.{name}": tensor for name, tensor in self.first.items()}
        return first | {f"second.{name}": tensor for name, tensor in self.second.items()}

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], rate: float, scale: Tensor) -> None:
        """Update every weight by its gradient times `scale` (what clipping leaves of it)."""
        self.updates += 1
        beta1, beta2 = self._settings.beta1, self._settings.beta2
        correction1, correction2 = 1 - beta1**self.updates, 1 - beta2**self.updates
        for name, weight in self._weights.items():
            decay = 1 - rate * self._settings.weight_decay if decays(weight) else 1.0
            moments = (self.first[name], self.second[name])
            betas, sizes = (beta1, beta2, self._settings.eps), (rate / correction1, correction2**0.5)
            adamw(weight, gradients[name], *moments, float(scale), decay, *betas, *sizes)


def decays(weight: Tensor) -> bool:
    """Whether weight decay applies: to matrices and stacks of them."""
    return weight.dim() >= 2


def clip_scale(norm: Tensor, limit: float) -> Tensor:
    """What to multiply the gradient with so that its norm is at most `limit`."""
    return (limit / (norm + 1e-6)).clamp(max=1.0)


@torch.no_grad()
def update_average(average: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float) -> None:
    """Set average = decay * average + (1 - decay) * weights, in place (V3, section 3.2.3)."""
    for name, weight in weights.items():
        average[name].lerp_(weight, 1 - decay)
