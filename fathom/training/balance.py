"""Balancing the load of experts: V2's three losses, V3's sequence loss and bias update, MaxVio.

B sequences, T tokens of one, E routed experts, K chosen per token, G groups of experts (V2's devices). V2 defines its
losses over the T tokens of a sequence; here they are means over sequences. Fractions f carry no gradient, the
affinities P do.
"""

import torch
from torch import Tensor


def expert_fractions(selected_BTK: Tensor, experts: int) -> Tensor:
    """f_BE = E/(K T) * how many of the T tokens chose the expert (V2, eq. 24; V3, eq. 18)."""
    _, tokens, choices = selected_BTK.shape
    return _counts(selected_BTK.flatten(1), experts) * (experts / (choices * tokens))


def expert_balance_loss(scores_BTE: Tensor, selected_BTK: Tensor) -> Tensor:
    """Sum_i f_i P_i with P_i = mean_t s_i,t (V2, eq. 23-25), without its factor alpha1."""
    fractions_BE = expert_fractions(selected_BTK, scores_BTE.shape[-1])
    return (fractions_BE * scores_BTE.mean(dim=1)).sum(dim=-1).mean()


def device_balance_loss(scores_BTE: Tensor, selected_BTK: Tensor, groups: int) -> Tensor:
    """Sum_d f'_d P'_d: f' is the mean of f in the group, P' the sum of P (V2, eq. 26-28), without alpha2."""
    fractions_BG = _by_group(expert_fractions(selected_BTK, scores_BTE.shape[-1]), groups).mean(dim=-1)
    return (fractions_BG * _group_affinities(scores_BTE, groups)).sum(dim=-1).mean()


def communication_balance_loss(scores_BTE: Tensor, selected_BTK: Tensor, groups: int, groups_per_token: int) -> Tensor:
    """Sum_d f''_d P''_d: f''_d = G/(M T) * tokens sent to group d (V2, eq. 29-31), without alpha3.

    `groups_per_token` is M, the most groups that a token may be sent to.
    """
    experts, tokens = scores_BTE.shape[-1], scores_BTE.shape[1]
    visited_BTG = torch.zeros(*selected_BTK.shape[:2], groups, device=scores_BTE.device)
    visited_BTG.scatter_(-1, selected_BTK // (experts // groups), 1.0)
    fractions_BG = visited_BTG.sum(dim=1) * (groups / (groups_per_token * tokens))
    return (fractions_BG * _group_affinities(scores_BTE, groups)).sum(dim=-1).mean()


def sequence_balance_loss(scores_BTE: Tensor, choices: int) -> Tensor:
    """Sum_i f_i P_i of V3 (eq. 17-20), without alpha; `choices` is K.

    As the report writes it, f counts the top K of the plain scores (eq. 18), not of what bias and groups let through;
    P_i is the mean of the scores normalised over all experts (eq. 19, 20).
    """
    selected_BTK = scores_BTE.topk(choices, dim=-1).indices
    normalised_BTE = scores_BTE / (scores_BTE.sum(dim=-1, keepdim=True) + 1e-20)
    return expert_balance_loss(normalised_BTE, selected_BTK)


@torch.no_grad()
def update_bias(bias_E: Tensor, load_E: Tensor, speed: float) -> None:
    """Lower the bias of experts above the mean load by `speed`, raise it below (V3, section 2.1.2), in place.

    `load_E` counts the choices of the whole batch of a step.
    """
    load = load_E.to(torch.float64)
    bias_E += speed * torch.sign(load.mean() - load).to(bias_E.dtype)


def max_violation(load_E: Tensor) -> float:
    """MaxVio = (largest load - mean load) / mean load (Wang et al. 2024, arXiv 2408.15664, section 3)."""
    load = load_E.to(torch.float64)
    return float((load.max() - load.mean()) / load.mean())


def expert_load(selected_NK: Tensor, experts: int) -> Tensor:
    """How many choices fell on each expert, int64 [E]."""
    return torch.bincount(selected_NK.flatten(), minlength=experts)


def _counts(selected_BM: Tensor, experts: int) -> Tensor:
    ones = torch.ones_like(selected_BM, dtype=torch.float32)
    zeros = torch.zeros(selected_BM.shape[0], experts, device=selected_BM.device)
    return zeros.scatter_add_(1, selected_BM, ones)


def _by_group(values_BE: Tensor, groups: int) -> Tensor:
    return values_BE.view(values_BE.shape[0], groups, -1)


def _group_affinities(scores_BTE: Tensor, groups: int) -> Tensor:
    return _by_group(scores_BTE.mean(dim=1), groups).sum(dim=-1)
