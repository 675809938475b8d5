"""V2's token dropping (section 2.2.4), put on a model from outside; training only.

A device's budget is its even share of the choices times a capacity factor. Beyond it, the choices of lowest affinity
lose their weight. The sequences of some share are never dropped, so that the model meets what inference is like.

N tokens, K experts chosen by each, B sequences, G groups of experts (V2's devices).
"""

import torch
from torch import Tensor

from fathom.models.experts import Gate, Routing
from fathom.models.transformer import Transformer
from fathom.training.recipe import BalanceV2


def kept_choices(affinities_NK: Tensor, groups_NK: Tensor, groups: int, capacity: float, exempt_N: Tensor) -> Tensor:
    """Which choices stay, bool [N, K]: of each group the `capacity` even shares with the highest affinity.

    Choices of exempt tokens come first and always stay.
    """
    budget = int(capacity * affinities_NK.numel() / groups)
    flat_M, exempt_M = groups_NK.flatten(), exempt_N[:, None].expand_as(groups_NK).flatten()
    order_M = torch.argsort(affinities_NK.flatten() + exempt_M * 1e9, descending=True, stable=True)
    member_GM = flat_M[order_M] == torch.arange(groups, device=flat_M.device)[:, None]
    place_GM = member_GM.cumsum(dim=1)  # how many of the group came before, itself included
    within_M = (member_GM & (place_GM <= budget)).any(dim=0)
    kept_M = torch.empty_like(within_M).scatter_(0, order_M, within_M)
    return (kept_M | exempt_M).view_as(groups_NK)


def apply_dropping(model: Transformer, settings: BalanceV2 | None, sequence_length: int) -> None:
    """Have every gate drop choices while gradients are wanted; nothing without a `capacity` in the recipe."""
    if settings is not None and settings.capacity is not None:
        for gate in model.modules():
            if isinstance(gate, Gate):
                _wrap(gate, settings.capacity, settings.exempt, sequence_length)


def _wrap(gate: Gate, capacity: float, exempt: float, length: int) -> None:
    plain, config = gate.forward, gate.config
    every = round(1 / exempt) if exempt > 0 else 0

    def dropping(x_ND: Tensor) -> Routing:
        routing = plain(x_ND)
        if not torch.is_grad_enabled():
            return routing
        selected_NK = routing.selected_NK
        sequence_N = torch.arange(selected_NK.shape[0], device=x_ND.device) // length
        exempt_N = sequence_N % every == 0 if every else torch.zeros_like(sequence_N, dtype=torch.bool)
        affinities_NK = routing.scores_NE.detach().gather(1, selected_NK)
        groups_NK = selected_NK // (config.n_routed_experts // config.n_group)
        kept_NK = kept_choices(affinities_NK, groups_NK, config.n_group, capacity, exempt_N)
        return routing._replace(weights_NK=routing.weights_NK * kept_NK)

    gate.forward = dropping  # type: ignore[method-assign]
