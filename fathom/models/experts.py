"""DeepSeekMoE: the gates of V2 and V3, and the mixture of shared and routed experts.

N tokens, E routed experts, K chosen per token, D hidden size, F width of an expert.
"""

from collections.abc import Callable
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.kernels.experts import grouped_experts
from fathom.kernels.feed_forward import trained_experts
from fathom.kernels.products import FULL, Products
from fathom.models.config import ModelConfig
from fathom.models.layers import FeedForward


class Routing(NamedTuple):
    """What a gate decided. `scores_NE` carries the gradient the balance losses need."""

    scores_NE: Tensor  # float32 affinities: softmax (V2) or sigmoid (V3), without bias, before any masking
    selected_NK: Tensor  # int64, the chosen experts
    weights_NK: Tensor  # float32, what their outputs are multiplied by


class Gate(nn.Module):
    """Scores every expert in float32 and chooses K of them within the best groups."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.choose: Callable[[Tensor], tuple[Tensor, Tensor]]
        if config.architecture == "deepseek_v3":
            self.choose = self._choose_v3
            self.e_score_correction_bias: Tensor
            bias = torch.zeros(config.n_routed_experts, dtype=torch.float32)
            self.register_buffer("e_score_correction_bias", bias)
        else:
            self.choose = self._choose_v2

    def forward(self, x_ND: Tensor) -> Routing:
        """Route N tokens."""
        logits_NE = F.linear(x_ND.float(), self.weight.float())
        softmax = self.config.scoring_func == "softmax"
        scores_NE = logits_NE.softmax(dim=-1) if softmax else logits_NE.sigmoid()
        selected_NK, weights_NK = self.choose(scores_NE)
        return Routing(scores_NE, selected_NK, weights_NK)

    def _choose_v2(self, scores_NE: Tensor) -> tuple[Tensor, Tensor]:
        """V2, section 2.2.2: the best groups by their best expert, then the best K. Weights are not renormalised."""
        config, eligible_NE = self.config, scores_NE
        if config.topk_method == "group_limited_greedy":
            group_scores = self._by_group(scores_NE).amax(dim=-1)
            eligible_NE = self._within_groups(scores_NE, group_scores)
        selected_NK = eligible_NE.topk(config.num_experts_per_tok, dim=-1).indices
        weights_NK = scores_NE.gather(-1, selected_NK)
        # DeepSeek's V2 code renormalises or scales, never both; no released model asks for the former.
        if config.norm_topk_prob and config.num_experts_per_tok > 1:
            return selected_NK, weights_NK / (weights_NK.sum(dim=-1, keepdim=True) + 1e-20)
        return selected_NK, weights_NK * config.routed_scaling_factor

    def _choose_v3(self, scores_NE: Tensor) -> tuple[Tensor, Tensor]:
        """V3, section 2.1.2: chosen by score plus bias, weighted by the score alone, renormalised, scaled."""
        config = self.config
        eligible_NE = scores_NE + self.e_score_correction_bias
        if config.topk_group < config.n_group:
            group_scores = self._by_group(eligible_NE).topk(2, dim=-1).values.sum(dim=-1)
            eligible_NE = self._within_groups(eligible_NE, group_scores)
        selected_NK = eligible_NE.topk(config.num_experts_per_tok, dim=-1).indices
        weights_NK = scores_NE.gather(-1, selected_NK)
        if config.norm_topk_prob:
            weights_NK = weights_NK / (weights_NK.sum(dim=-1, keepdim=True) + 1e-20)
        return selected_NK, weights_NK * config.routed_scaling_factor

    def _within_groups(self, scores_NE: Tensor, group_scores: Tensor) -> Tensor:
        """Set the experts outside the best groups to minus infinity: zero would win over a negative biased score."""
        kept = group_scores.topk(self.config.topk_group, dim=-1).indices
        rejected = torch.ones_like(group_scores, dtype=torch.bool).scatter_(-1, kept, False)
        return self._by_group(scores_NE).masked_fill(rejected[..., None], float("-inf")).flatten(-2)

    def _by_group(self, scores_NE: Tensor) -> Tensor:
        return scores_NE.view(scores_NE.shape[0], self.config.n_group, -1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow `.to(...)`, but keep the bias in float32: its steps of 0.001 vanish in bfloat16."""
        bias = self._buffers.get("e_score_correction_bias")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if bias is not None and self.e_score_correction_bias.dtype != torch.float32:
            self.e_score_correction_bias = bias.to(self.e_score_correction_bias.device)
        return self


class Experts(nn.Module):
    """The routed experts' weights, stacked: gate_proj and up_proj [E, F, D], down_proj [E, D, F].

    `products`: how their products are computed in training.
    """

    products: Products = FULL

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, width, hidden = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_proj = nn.Parameter(torch.empty(experts, width, hidden))
        self.up_proj = nn.Parameter(torch.empty(experts, width, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, width))

    def forward(self, x_ND: Tensor, routing: Routing) -> Tensor:
        """Return the weighted sum of every token's experts, [N, D]."""
        weights = (self.gate_proj, self.up_proj, self.down_proj)
        if self.products is not FULL or (torch.is_grad_enabled() and x_ND.device.type == "cpu"):
            return trained_experts(x_ND, routing.selected_NK, routing.weights_NK, *weights, self.products)
        return grouped_experts(x_ND, routing.selected_NK, routing.weights_NK, *weights)


class MixtureOfExperts(nn.Module):
    """shared(x) + sum of the chosen experts (V2, eq. 20; V3, eq. 12). Shared experts are one wide feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Gate(config)
        self.experts = Experts(config)
        if config.n_shared_experts:
            self.shared_experts = FeedForward(
                config.hidden_size, config.n_shared_experts * config.moe_intermediate_size
            )
        self.has_shared = config.n_shared_experts > 0

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Routing]:
        """Return [N, D] and what the gate decided."""
        routing: Routing = self.gate(x_ND)
        out: Tensor = self.experts(x_ND, routing)
        return (out + self.shared_experts(x_ND) if self.has_shared else out), routing
