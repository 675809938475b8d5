import math

import pytest
import torch

from fathom.rl.diagnosis import diagnose
from fathom.rl.objective import advantages, mismatch, policy_loss, sampler_weights, token_weights, unbiased_kl


def test_advantages_are_the_groups_standard_scores():
    values = advantages([1.0, 0.0, 0.0, 1.0], "std")
    std = torch.tensor([1.0, 0.0, 0.0, 1.0]).std().item()
    assert values == pytest.approx([0.5 / std, -0.5 / std, -0.5 / std, 0.5 / std], rel=1e-3)
    assert advantages([1.0, 0.0], "none") == [0.5, -0.5]
    assert advantages([0.3] * 5, "std") == [0.0] * 5


def test_token_weights_sum_to_what_their_papers_say():
    sequence, token, constant = (token_weights([2, 8], name, 10) for name in ("sequence", "token", "constant"))
    assert sequence == [1 / 4, 1 / 16]  # every output half
    assert token == [1 / 10, 1 / 10]
    assert constant == [1 / 20, 1 / 20]


def loop_loss(new, old, advantage, weight, low, high, reference, beta):
    """The published formula, token by token, with floats."""
    total = 0.0
    for n, o, a, w, r in zip(*(x.tolist() for x in (new, old, advantage, weight, reference)), strict=True):
        rho = math.exp(n - o)
        clipped = min(max(rho, 1 - low), 1 + high)
        kl = math.exp(r - n) - (r - n) - 1
        total -= w * (min(rho * a, clipped * a) - beta * kl)
    return total


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (0.2, 10.0)])
def test_policy_loss_equals_the_formula_written_as_a_loop(low, high):
    draw = torch.Generator().manual_seed(0)
    new, old, reference = (-torch.rand(50, generator=draw).double() * 2 for _ in range(3))
    advantage, weight = torch.randn(50, generator=draw).double(), torch.rand(50, generator=draw).double()
    bounds = {"clip_low": low, "clip_high": high}
    result = policy_loss(new, old, advantage, weight, **bounds, reference_M=reference, beta=0.04)
    assert float(result.loss) == pytest.approx(loop_loss(new, old, advantage, weight, low, high, reference, 0.04))


def test_on_policy_the_gradient_is_that_of_reinforce():
    logits = torch.randn(6, 10, dtype=torch.float64, requires_grad=True)
    tokens, advantage = torch.arange(6), torch.tensor([1.0, 1, 1, -1, -1, -1], dtype=torch.float64)
    new = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    weight = torch.full((6,), 1 / 6, dtype=torch.float64)
    policy_loss(new, new.detach(), advantage, weight, clip_low=0.2, clip_high=0.2).loss.backward()
    ours = logits.grad.clone()
    logits.grad = None
    (-(logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0] * advantage).mean()).backward()
    assert torch.allclose(ours, logits.grad)


def test_the_kl_estimate_is_right_in_expectation_and_never_negative():
    p, q = (torch.randn(8, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    estimate = unbiased_kl(p, q)
    assert (estimate >= 0).all()
    assert float((p.exp() * estimate).sum()) == pytest.approx(float((p.exp() * (p - q)).sum()))


def test_sampler_weights_are_truncated_and_pass_over_what_is_unknown():
    trainer, sampler = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.5, -4.0, math.nan])
    assert sampler_weights(trainer, sampler, 2.0).tolist() == pytest.approx([math.exp(0.5), 2.0, 1.0])
    found = mismatch(trainer, sampler)
    assert (found.mean, found.largest) == pytest.approx((1.75, 3.0))
    assert mismatch(trainer, torch.full((3,), math.nan)).mean == 0.0


def line(**more):
    sound = {"zero_advantage": 0.3, "accuracy": 0.5, "entropy": 0.5, "cut_off": 0.0, "mismatch": 0.01}
    return {**sound, "verifier_failed": 0.0, "clipped": 0.0, **more}


def test_a_run_that_is_stuck_says_why():
    assert diagnose([line()] * 10) == []
    assert diagnose([line(zero_advantage=1.0)] * 5) == []  # too early to tell
    assert "too hard" in diagnose([line(zero_advantage=0.95, accuracy=0.0)] * 10)[0]
    assert "harder problems" in diagnose([line(zero_advantage=0.95, accuracy=0.99)] * 10)[0]
    assert "entropy" in diagnose([line(entropy=0.001)] * 10)[0]
    assert "cut off" in diagnose([line(cut_off=0.6)] * 10)[0]
    assert "quantisation" in diagnose([line(mismatch=0.4)] * 10)[0]
