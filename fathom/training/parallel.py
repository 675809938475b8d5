"""Several processes on one run, put on the model from outside: rows shared out, and experts if wished.

Every process reads its share of each batch and computes the loss's share of it; gradients are summed before the update
(data parallel). With `experts`, each process also holds its part of every mixture's experts, and tokens travel to the
processes of their experts and back (all-to-all, as DeepSeek-V2 and V3 train; section 3.2 of the V3 report): then the
experts' gradients are complete where they are, and only the rest is summed. Checkpoints are whole, whatever the layout,
so that a run goes on with another number of processes, or in one.

N tokens of this process, K experts chosen by each, M = N*K rows sent, L rows received, E experts, R ranks, D hidden.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fathom.data.errors import RecipeError
from fathom.kernels.feed_forward import trained_experts
from fathom.models.experts import Experts, MixtureOfExperts, Routing
from fathom.models.transformer import Transformer
from fathom.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Layout:
    """Which of how many processes this is, and whether each holds its part of the experts."""

    rank: int = 0
    ranks: int = 1
    experts: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def is_split(self, name: str) -> bool:
        """Whether a parameter of this name is only partly here."""
        return self.experts and self.ranks > 1 and ".mlp.experts." in name

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up over the processes, in place."""
        if self.ranks > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        """Add up what every process has a part of; the experts' gradients are whole where the experts are."""
        if self.ranks > 1:
            whole = [gradient for name, gradient in sorted(gradients.items()) if not self.is_split(name)]
            flat = torch.cat([gradient.flatten() for gradient in whole])
            dist.all_reduce(flat)
            sizes = [one.numel() for one in whole]
            for gradient, summed in zip(whole, torch.split(flat, sizes), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def norm(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """The norm of the whole gradient, float32, the same bits everywhere."""
        split = [gradient for name, gradient in gradients.items() if self.is_split(name)]
        if not split:
            return _norm(gradients.values())
        squares = self.sum(_norm(split).square())
        whole = _norm(gradient for name, gradient in gradients.items() if not self.is_split(name))
        return (whole.square() + squares).sqrt()

    def full(self, name: str, tensor: Tensor) -> Tensor:
        """A copy with all experts in it; all processes call it for the same tensors in the same order."""
        if not self.is_split(name):
            return tensor.clone()
        parts = [torch.empty_like(tensor) for _ in range(self.ranks)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def part(self, name: str, tensor: Tensor) -> Tensor:
        """Return what of a whole tensor this process holds."""
        return tensor.chunk(self.ranks)[self.rank] if self.is_split(name) else tensor

    def check(self, recipe: Recipe) -> None:
        """Raise RecipeError where the recipe cannot be shared out so."""
        batch, model = recipe.batch, recipe.model
        sizes = [batch.sequences] if batch.ramp_from is None else [batch.sequences, batch.micro_sequences]
        if any(size % self.ranks for size in sizes):
            raise RecipeError(f"batch.sequences (with a ramp also micro_sequences) must be shared by {self.ranks}")
        if self.experts and model.n_routed_experts % self.ranks:
            raise RecipeError(f"{model.n_routed_experts} experts cannot be shared by {self.ranks} processes")


def _norm(gradients: Iterable[Tensor]) -> Tensor:
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def layout_from_environment(recipe: Recipe) -> Layout:
    """What torchrun started: one process, or as many as WORLD_SIZE says, joined over gloo."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        return Layout()
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    layout = Layout(dist.get_rank(), ranks, recipe.parallel.experts)
    layout.check(recipe)
    return layout


def share_experts(model: Transformer, layout: Layout) -> None:
    """Leave only this process's experts in every mixture, and send tokens where theirs are."""
    if layout.experts and layout.ranks > 1:
        for mixture in model.modules():
            if isinstance(mixture, MixtureOfExperts):
                mixture.experts = SharedExperts(mixture.experts, layout)


class SharedExperts(Experts):
    """The experts rank*E/R to (rank+1)*E/R, under the names of `Experts`; stands where it stood."""

    def __init__(self, experts: Experts, layout: Layout) -> None:
        nn.Module.__init__(self)
        self._layout = layout
        for name, weight in experts.named_parameters():
            setattr(self, name, nn.Parameter(weight.detach().chunk(layout.ranks)[layout.rank].clone()))

    def forward(self, x_ND: Tensor, routing: Routing) -> Tensor:
        """Return the weighted sum of every token's experts, [N, D], wherever they are."""
        selected_NK = routing.selected_NK
        tokens, choices = selected_NK.shape
        here = self.gate_proj.shape[0]
        flat_M = selected_NK.flatten()
        order_M = torch.argsort(flat_M, stable=True)  # by expert, so also by rank
        sent = torch.bincount(flat_M // here, minlength=self._layout.ranks)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        counts = (received.tolist(), sent.tolist())
        experts_L = flat_M.new_empty(sum(counts[0]))
        dist.all_to_all_single(experts_L, flat_M[order_M], *counts)
        rows_LD: Tensor = _Exchange.apply(x_ND[order_M // choices], *counts)  # type: ignore[no-untyped-call]
        ones_L1 = torch.ones(rows_LD.shape[0], 1)
        weights = (self.gate_proj, self.up_proj, self.down_proj)
        local_L1 = (experts_L - self._layout.rank * here)[:, None]
        out_LD = trained_experts(rows_LD, local_L1, ones_L1, *weights, self.products) if len(rows_LD) else rows_LD * 1.0
        back_MD: Tensor = _Exchange.apply(out_LD, *reversed(counts))  # type: ignore[no-untyped-call]
        place_M = torch.empty_like(order_M).scatter_(0, order_M, torch.arange(order_M.numel()))
        outputs_NKD = back_MD[place_M].view(tokens, choices, -1)
        return (outputs_NKD.float() * routing.weights_NK[:, :, None].float()).sum(1).to(x_ND.dtype)


class _Exchange(torch.autograd.Function):
    """All-to-all of rows sorted by rank; its gradient is the exchange back."""

    @staticmethod
    def forward(ctx: Any, rows_MD: Tensor, received: list[int], sent: list[int]) -> Tensor:
        ctx.received, ctx.sent = received, sent
        return _exchanged(rows_MD, received, sent)

    @staticmethod
    def backward(ctx: Any, gradient_LD: Tensor) -> tuple[Tensor, None, None]:
        return _exchanged(gradient_LD, ctx.sent, ctx.received), None, None


def _exchanged(rows_MD: Tensor, received: list[int], sent: list[int]) -> Tensor:
    out_LD = rows_MD.new_empty(sum(received), rows_MD.shape[1])
    dist.all_to_all_single(out_LD, rows_MD.contiguous(), received, sent)
    return out_LD
