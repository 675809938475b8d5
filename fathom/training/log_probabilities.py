"""Log-probabilities of given tokens without the logits of all rows, for a frozen output head.

M rows, D hidden size, V vocabulary, C rows of a chunk. What SFT on answers and GRPO differentiate.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class TokenLogProbabilities(NamedTuple):
    """float32, one per row: log p of the target, and the entropy of the distribution (without gradient)."""

    chosen_M: Tensor
    entropy_M: Tensor


def plain_log_probabilities(
    hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, temperature: float = 1.0
) -> TokenLogProbabilities:
    """The readable twin: all logits at once."""
    logp_MV = (F.linear(hidden_MD, weight_VD).float() / temperature).log_softmax(dim=-1)
    entropy_M = -(logp_MV.exp() * logp_MV).sum(dim=-1)
    return TokenLogProbabilities(logp_MV.gather(1, targets_M[:, None])[:, 0], entropy_M.detach())


def log_probabilities(
    hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, temperature: float = 1.0, rows: int = 256
) -> TokenLogProbabilities:
    """Equal to `plain_log_probabilities`, with the logits of `rows` rows at a time and no gradient of the head.

    The gradient of each row's log-probability, (one_hot - p) W / temperature, is known in the forward and has the size
    of the hidden state; it is kept, and the backward only scales it.
    """
    wanted = torch.is_grad_enabled() and hidden_MD.requires_grad
    chosen_M, entropy_M = _Chunked.apply(hidden_MD, weight_VD, targets_M, temperature, rows, wanted)  # type: ignore[no-untyped-call]
    return TokenLogProbabilities(chosen_M, entropy_M)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, temperature: float, rows: int, wanted: bool
    ) -> tuple[Tensor, Tensor]:
        chosen_M = torch.empty(hidden_MD.shape[0], dtype=torch.float32, device=hidden_MD.device)
        entropy_M = torch.empty_like(chosen_M)
        unit_MD = torch.empty_like(hidden_MD) if wanted else None
        for start in range(0, hidden_MD.shape[0], rows):
            part = slice(start, start + rows)
            targets_C = targets_M[part, None]
            logits_CV = F.linear(hidden_MD[part], weight_VD).float()
            if temperature != 1.0:
                logits_CV.div_(temperature)
            total_C = logits_CV.logsumexp(dim=-1)
            chosen_M[part] = logits_CV.gather(1, targets_C)[:, 0] - total_C
            p_CV = torch.sub(logits_CV, total_C[:, None]).exp_()
            entropy_M[part] = total_C - torch.linalg.vecdot(p_CV, logits_CV)
            if unit_MD is not None:
                gradient_CV = p_CV.neg_().scatter_add_(1, targets_C, torch.ones_like(targets_C, dtype=p_CV.dtype))
                unit_MD[part] = (gradient_CV.to(weight_VD.dtype) @ weight_VD).div_(temperature)
        if unit_MD is not None:
            ctx.save_for_backward(unit_MD)
        ctx.mark_non_differentiable(entropy_M)
        return chosen_M, entropy_M

    @staticmethod
    def backward(ctx: Any, gradient_M: Tensor, _entropy: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (unit_MD,) = ctx.saved_tensors
        return (unit_MD * gradient_M[:, None]).to(unit_MD.dtype), None, None, None, None, None
