"""GRPO's objective and the variants in use, as pure functions chosen by name.

DeepSeekMath (arXiv 2402.03300), equations 3 and 4; DAPO (arXiv 2503.14476); Dr. GRPO (arXiv 2503.20783).
G rollouts of a group, M learned tokens of all rollouts of a step.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Scale = Literal["std", "none"]
Normalise = Literal["sequence", "token", "constant"]


def advantages(rewards: Sequence[float], scale: Scale) -> list[float]:
    """A_i = (r_i - mean) / std over the group (DeepSeekMath, section 4.1.2; sample std, as in its released code's
    successors), or without the division (Dr. GRPO). A group of equal rewards has advantage 0 throughout.
    """
    count = len(rewards)
    mean = sum(rewards) / count
    centred = [reward - mean for reward in rewards]
    if scale == "none" or count == 1:
        return centred
    std = math.sqrt(sum(value**2 for value in centred) / (count - 1))
    return [value / (std + 1e-4) if std > 1e-8 else 0.0 for value in centred]


def token_weights(lengths: Sequence[int], normalise: Normalise, max_tokens: int) -> list[float]:
    """The weight of each token of each rollout; the loss is the weighted sum.

    `sequence`: every rollout counts the same, its tokens 1/|o_i| each (DeepSeekMath, eq. 3). `token`: every token of
    the step counts the same (DAPO, eq. 8). `constant`: 1/max_tokens whatever the length, so that no length is favoured
    (Dr. GRPO, section 3.1).
    """
    count, total = len(lengths), sum(lengths)
    match normalise:
        case "sequence":
            return [1 / (count * length) if length else 0.0 for length in lengths]
        case "token":
            return [1 / total if total else 0.0] * count
        case "constant":
            return [1 / (count * max_tokens)] * count


class PolicyLoss(NamedTuple):
    """`loss`: to be differentiated. The others are for people: share of clipped tokens, mean KL to the reference."""

    loss: Tensor
    clipped: Tensor
    kl: Tensor


def policy_loss(
    new_M: Tensor,
    old_M: Tensor,
    advantages_M: Tensor,
    weights_M: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    reference_M: Tensor | None = None,
    beta: float = 0.0,
    importance_M: Tensor | None = None,
) -> PolicyLoss:
    """Minus GRPO's objective: sum of w [min(rho A, clip(rho, 1-low, 1+high) A) - beta KL] (DeepSeekMath, eq. 3).

    Args:
        new_M: log-probabilities under the weights that learn.
        old_M: under the weights that sampled, as the trainer computes them.
        advantages_M: of each token's rollout.
        weights_M: from `token_weights`.
        clip_low: epsilon below (0.2 usually).
        clip_high: epsilon above; larger than below is DAPO's clip-higher; R1's second stage has 10.
        reference_M: log-probabilities under the reference; needed for beta above 0.
        beta: weight of the KL term (R1-Zero: 0.001).
        importance_M: trainer/sampler weights from `sampler_weights`; None: the sampler is trusted.

    """
    ratio_M = (new_M - old_M).exp()
    bounded_M = ratio_M.clamp(1 - clip_low, 1 + clip_high)
    gain_M = torch.minimum(ratio_M * advantages_M, bounded_M * advantages_M)
    clipped_M = (ratio_M * advantages_M > bounded_M * advantages_M).float()
    if importance_M is not None:
        gain_M = gain_M * importance_M
    kl_M = torch.zeros_like(new_M) if reference_M is None else unbiased_kl(new_M, reference_M)
    loss = -((gain_M - beta * kl_M) * weights_M).sum()
    return PolicyLoss(loss, clipped_M.mean().detach(), kl_M.mean().detach())


def unbiased_kl(new_M: Tensor, reference_M: Tensor) -> Tensor:
    """pi_ref/pi - log(pi_ref/pi) - 1 per token: never negative, right in expectation (DeepSeekMath, eq. 4)."""
    difference_M = reference_M - new_M
    return difference_M.exp() - difference_M - 1


def sampler_weights(trainer_M: Tensor, sampler_M: Tensor, cap: float) -> Tensor:
    """min(pi_trainer / pi_sampler, cap) per token: corrects for a sampler that computes a little differently
    (truncated importance sampling). Tokens that the sampler reported nothing for (NaN) count fully.
    """
    ratio_M = (trainer_M - sampler_M).exp().clamp(max=cap)
    return torch.where(ratio_M.isnan(), torch.ones_like(ratio_M), ratio_M)


class Mismatch(NamedTuple):
    """How far sampler and trainer disagree on the sampled tokens: mean and largest |difference| of log-probabilities,
    and the estimate of KL(sampler || trainer).
    """

    mean: float
    largest: float
    kl: float


def mismatch(trainer_M: Tensor, sampler_M: Tensor) -> Mismatch:
    """Compare log-probabilities; tokens that the sampler reported nothing for (NaN) are left out."""
    known = ~sampler_M.isnan()
    if not bool(known.any()):
        return Mismatch(0.0, 0.0, 0.0)
    difference_M = (trainer_M - sampler_M)[known]
    size_M = difference_M.abs()
    kl_M = difference_M.exp() - difference_M - 1
    return Mismatch(float(size_M.mean()), float(size_M.max()), float(kl_M.mean()))
