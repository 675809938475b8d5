"""Grouped experts equal the loop over tokens that defines them, values and gradients, on both ways of multiplying."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.kernels import experts


def loop(hidden, selected, weights, gate, up, down):
    rows = []
    for token, chosen, factors in zip(hidden, selected.tolist(), weights, strict=True):
        outputs = [down[e] @ (F.silu(gate[e] @ token) * (up[e] @ token)) for e in chosen]
        rows.append(sum(factor * output for factor, output in zip(factors, outputs, strict=True)))
    return torch.stack(rows)


def problem(tokens, n_experts, chosen, hidden, width, dtype=torch.float32):
    torch.manual_seed(0)
    x = torch.randn(tokens, hidden, dtype=dtype)
    scores = torch.rand(tokens, n_experts)
    weights, selected = scores.topk(chosen)
    shapes = ((n_experts, width, hidden), (n_experts, width, hidden), (n_experts, hidden, width))
    matrices = [torch.randn(shape, dtype=dtype) / shape[-1] ** 0.5 for shape in shapes]
    return x, selected, weights.to(dtype), *matrices


# 16 and 24 float32 elements are whole 16-byte rows, which grouped_mm takes; 10 and 6 are not.
SIZES = [(32, 16, 24), (32, 10, 6)]


@pytest.mark.parametrize(("n_experts", "hidden", "width"), SIZES)
@pytest.mark.parametrize("tokens", [1, 5, 40])
def test_equals_the_loop(tokens, n_experts, hidden, width):
    case = problem(tokens, n_experts, 4, hidden, width)
    torch.testing.assert_close(experts.grouped_experts(*case), loop(*case), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("n_experts", "hidden", "width"), SIZES)
def test_gradients_equal_the_loop(n_experts, hidden, width):
    x, selected, *others = problem(9, n_experts, 3, hidden, width)
    leaves = [tensor.requires_grad_() for tensor in (x, *others)]
    target = torch.randn(9, hidden)
    ours = torch.autograd.grad((experts.grouped_experts(x, selected, *others) * target).sum(), leaves)
    theirs = torch.autograd.grad((loop(x, selected, *others) * target).sum(), leaves)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, atol=1e-5, rtol=1e-4)


def test_gradient_of_a_plain_sum():
    """sum() hands back a gradient of zero strides, which grouped_mm refuses as it stands."""
    x, selected, *others = problem(9, 8, 3, 16, 24)
    others[-1].requires_grad_()
    experts.grouped_experts(x, selected, *others).sum().backward()
    assert others[-1].grad.abs().sum() > 0


def test_no_tokens():
    x, selected, *others = problem(1, 8, 3, 16, 24)
    assert experts.grouped_experts(x[:0], selected[:0], others[0][:0], *others[1:]).shape == (0, 16)


def test_bfloat16_adds_in_float32():
    x, selected, *others = problem(33, 16, 4, 32, 16, torch.bfloat16)
    ours = experts.grouped_experts(x, selected, *others)
    exact = loop(*(t.float() if t.is_floating_point() else t for t in (x, selected, *others)))
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), exact, atol=0.05, rtol=0.05)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=0, max_size=20))
def test_both_products_agree_for_any_load(counts_of):
    """Experts without rows, one expert with all rows, no rows at all."""
    ends = torch.bincount(torch.tensor(counts_of, dtype=torch.int64), minlength=7).cumsum(0).to(torch.int32)
    rows, weight = torch.randn(len(counts_of), 8), torch.randn(7, 12, 8)
    ours = experts.grouped_linear(rows, weight, ends)
    torch.testing.assert_close(ours, experts.segmented_linear(rows, weight, ends))
    expected = [weight[e] @ row for e, row in zip(sorted(counts_of), rows, strict=True)]
    torch.testing.assert_close(ours, torch.stack(expected) if expected else torch.zeros(0, 12), atol=1e-5, rtol=1e-5)


def test_a_token_does_not_see_its_neighbours():
    """The same token alone and in a batch: the products may differ in the last bit, the order of the sum may not."""
    case = problem(40, 16, 4, 32, 24)
    together = experts.grouped_experts(*case)
    alone = experts.grouped_experts(*(tensor[7:8] for tensor in case[:3]), *case[3:])
    torch.testing.assert_close(together[7:8], alone, atol=1e-6, rtol=1e-6)
