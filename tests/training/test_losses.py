"""Losses against independent, naive writings of the published formulas: loops over tokens and experts, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fathom.training import balance
from fathom.training.cross_entropy import IGNORED, chunked_cross_entropy, plain_cross_entropy


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 40), chunk=st.integers(1, 50), seed=st.integers(0, 1000), factor=st.floats(0.1, 3.0))
def test_chunked_cross_entropy_equals_the_plain_one(rows: int, chunk: int, seed: int, factor: float) -> None:
    torch.manual_seed(seed)
    targets = torch.randint(0, 11, (rows,))
    targets[torch.rand(rows) < 0.2] = IGNORED
    values, gradients = [], []
    base_hidden, base_weight = torch.randn(rows, 6), torch.randn(11, 6)
    for loss_of in (plain_cross_entropy, lambda h, w, t: chunked_cross_entropy(h, w, t, chunk)):
        hidden, weight = base_hidden.clone().requires_grad_(), base_weight.clone().requires_grad_()
        loss = loss_of(hidden, weight, targets)
        (loss * factor).backward()
        values.append(loss.detach())
        gradients.append((hidden.grad, weight.grad))
    torch.testing.assert_close(values[1], values[0], rtol=1e-5, atol=1e-4)
    for got, expected in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_cross_entropy_keeps_no_logits_for_the_backward() -> None:
    kept: list[int] = []
    hidden, weight = torch.randn(256, 4, requires_grad=True), torch.randn(512, 4, requires_grad=True)

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        chunked_cross_entropy(hidden, weight, torch.zeros(256, dtype=torch.int64), 64)
    assert kept
    assert max(kept) <= 512 * 4
    with torch.no_grad():
        assert chunked_cross_entropy(hidden, weight, torch.zeros(256, dtype=torch.int64), 64) > 0


def routing(seed: int, batch: int, tokens: int, groups: int, sigmoid: bool) -> tuple[Tensor, Tensor]:
    """Random scores and a choice of 3 of 4 experts a group, limited to nothing."""
    torch.manual_seed(seed)
    logits = torch.randn(batch, tokens, 4 * groups, dtype=torch.float64)
    scores = logits.sigmoid() if sigmoid else logits.softmax(-1)
    return scores, scores.topk(3, dim=-1).indices


@pytest.mark.parametrize("seed", range(3))
def test_v2_losses(seed: int) -> None:
    batch, tokens, groups, chosen, limit = 2, 7, 3, 3, 2
    scores, selected = routing(seed, batch, tokens, groups, sigmoid=False)
    experts = 4 * groups
    expected = [0.0, 0.0, 0.0]
    for b in range(batch):
        f = [
            experts / (chosen * tokens) * sum(i in selected[b, t].tolist() for t in range(tokens))
            for i in range(experts)
        ]
        p = [sum(float(scores[b, t, i]) for t in range(tokens)) / tokens for i in range(experts)]
        expected[0] += sum(f[i] * p[i] for i in range(experts)) / batch
        for d in range(groups):
            members = range(4 * d, 4 * d + 4)
            total = sum(p[i] for i in members)
            expected[1] += sum(f[i] for i in members) / 4 * total / batch
            sent = sum(any(i in members for i in selected[b, t].tolist()) for t in range(tokens))
            expected[2] += groups / (limit * tokens) * sent * total / batch
    got = [
        balance.expert_balance_loss(scores, selected),
        balance.device_balance_loss(scores, selected, groups),
        balance.communication_balance_loss(scores, selected, groups, limit),
    ]
    assert [float(loss) for loss in got] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_v3_sequence_loss_and_its_gradient(seed: int) -> None:
    batch, tokens, experts, chosen = 2, 6, 8, 3
    scores, _ = routing(seed, batch, tokens, 2, sigmoid=True)
    scores.requires_grad_()
    expected = torch.zeros((), dtype=torch.float64)
    for b in range(batch):
        for i in range(experts):
            count = sum(i in scores[b, t].topk(chosen).indices.tolist() for t in range(tokens))
            f = experts / (chosen * tokens) * count
            p = sum(scores[b, t, i] / scores[b, t].sum() for t in range(tokens)) / tokens
            expected = expected + f * p / batch
    loss = balance.sequence_balance_loss(scores, chosen)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    (got,) = torch.autograd.grad(loss, scores)
    (wanted,) = torch.autograd.grad(expected, scores)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-9)


def test_balanced_routing_has_the_least_expert_loss() -> None:
    even = torch.full((1, 4, 4), 0.25)
    selected = torch.tensor([[[0], [1], [2], [3]]])
    assert float(balance.expert_balance_loss(even, selected)) == pytest.approx(1.0)
    skewed = F.one_hot(torch.zeros(1, 4, dtype=torch.int64), 4).float()
    assert float(balance.expert_balance_loss(skewed, torch.zeros(1, 4, 1, dtype=torch.int64))) == pytest.approx(4.0)


def test_bias_moves_against_the_load() -> None:
    bias = torch.tensor([0.5, 0.0, 0.0, -1.0])
    balance.update_bias(bias, torch.tensor([9, 1, 5, 5]), 0.001)
    torch.testing.assert_close(bias, torch.tensor([0.499, 0.001, 0.0, -1.0]))


def test_max_violation() -> None:
    assert balance.max_violation(torch.tensor([4, 4, 4])) == 0
    assert math.isclose(balance.max_violation(torch.tensor([9, 2, 1])), 9 / 4 - 1)
    assert balance.expert_load(torch.tensor([[0, 2], [2, 1]]), 4).tolist() == [1, 1, 2, 0]
