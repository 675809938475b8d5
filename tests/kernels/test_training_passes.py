"""The passes of a training step against PyTorch's own operations and autograd."""

import pytest
import torch
import torch.nn.functional as F

from fathom.kernels import passes
from fathom.kernels.attention import attend
from fathom.kernels.attention_backward import attend_causally
from fathom.kernels.cpu.training import training_library
from fathom.kernels.experts import grouped_experts
from fathom.kernels.feed_forward import padded_order, trained_experts, trained_feed_forward
from fathom.kernels.products import FULL, linear

DTYPES = {torch.float32: {"rtol": 2e-5, "atol": 2e-5}, torch.bfloat16: {"rtol": 0.03, "atol": 0.03}}
both_types = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(params=["native", "torch"], autouse=True)
def library(request, monkeypatch):
    """Every test once with the native passes and once with their readable twins."""
    if request.param == "torch":
        monkeypatch.setattr(passes, "library_for", lambda *_tensors: None)
    elif training_library() is None:
        pytest.skip("no compiler here")


def drawn(*shape, dtype=torch.float32, seed=0, scale=1.0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * scale
    return values.to(dtype).requires_grad_()


def agree(ours, theirs, leaves, dtype):
    """Values and the gradients of all leaves."""
    torch.testing.assert_close(ours.float(), theirs.float(), **DTYPES[dtype])
    gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(9)).to(ours.dtype)
    pairs = zip(*(torch.autograd.grad(one, leaves, gradient) for one in (ours, theirs.to(ours.dtype))), strict=True)
    for mine, other in pairs:
        size = float(other.float().abs().max()) or 1.0
        torch.testing.assert_close(mine.float() / size, other.float() / size, **DTYPES[dtype])


@both_types
@pytest.mark.parametrize("shape", [(7, 33), (600, 16), (2, 3, 8)])
def test_norm(dtype, shape):
    x, weight = drawn(*shape, dtype=dtype), drawn(shape[-1], dtype=dtype, seed=1)
    agree(passes.rms_norm(x, weight, 1e-6), F.rms_norm(x, weight.shape, weight, 1e-6), [x, weight], dtype)


@both_types
@pytest.mark.parametrize(("tokens", "experts", "choices"), [(40, 8, 3), (200, 4, 1), (1, 5, 5)])
def test_experts(dtype, tokens, experts, choices):
    hidden, weights = drawn(tokens, 16, dtype=dtype), drawn(tokens, choices, seed=3)
    selected = torch.rand(tokens, experts, generator=torch.Generator().manual_seed(4)).topk(choices).indices
    gate, up = (drawn(experts, 24, 16, dtype=dtype, seed=seed, scale=0.3) for seed in (5, 6))
    down = drawn(experts, 16, 24, dtype=dtype, seed=7, scale=0.3)
    arguments = (hidden, selected, weights, gate, up, down)
    agree(trained_experts(*arguments), grouped_experts(*arguments), [hidden, weights, gate, up, down], dtype)


def test_an_expert_without_tokens_gets_a_zero_gradient():
    hidden, weights = drawn(6, 16), drawn(6, 1, seed=1)
    gate, up, down = drawn(3, 8, 16), drawn(3, 8, 16, seed=1), drawn(3, 16, 8)
    trained_experts(hidden, torch.tensor([[0], [2]] * 3), weights, gate, up, down).sum().backward()
    for weight in (gate, up, down):
        assert weight.grad[1].abs().max() == 0
        assert weight.grad[0].abs().max() > 0


def test_rows_are_laid_out_in_whole_tiles_in_the_order_of_the_tokens():
    order = padded_order(torch.tensor([[1, 0], [1, 2], [0, 1]]), 4, tile=4)
    assert order.ends_E.tolist() == [4, 8, 12, 12]
    assert order.choice_P.tolist() == [1, 4, 6, 6, 0, 2, 5, 6, 3, 6, 6, 6]
    assert order.source_P.tolist() == [0, 2, 0, 0, 0, 1, 2, 0, 1, 0, 0, 0]
    assert order.position_NK.tolist() == [[4, 0], [5, 8], [1, 6]]


@both_types
def test_feed_forward(dtype):
    x = drawn(2, 9, 16, dtype=dtype)
    gate, up, down = drawn(24, 16, dtype=dtype), drawn(24, 16, dtype=dtype, seed=1), drawn(16, 24, dtype=dtype)
    theirs = F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)
    ours = trained_feed_forward(x, gate, up, down)
    scale = float(theirs.detach().float().abs().max())
    agree(ours / scale, theirs / scale, [x, gate, up, down], dtype)


@both_types
def test_linear_through_the_seam_of_products(dtype):
    x, weight = drawn(3, 5, 16, dtype=dtype), drawn(8, 16, dtype=dtype)
    agree(linear(x, weight, FULL), F.linear(x, weight), [x, weight], dtype)


@both_types
@pytest.mark.parametrize(("heads", "groups", "width"), [(3, 3, 12), (3, 3, 8), (6, 2, 12), (6, 1, 8)])
def test_causal_attention(dtype, heads, groups, width):
    query, key = drawn(2, 17, heads, 12, dtype=dtype), drawn(2, 17, groups, 12, dtype=dtype, seed=1)
    value = drawn(2, 17, groups, width, dtype=dtype, seed=2)
    mask = torch.ones(1, 17, 17, dtype=torch.bool).tril()
    ours, theirs = attend_causally(query, key, value, 0.3), attend(query, key, value, mask, 0.3)
    agree(ours, theirs, [query, key, value], dtype)


@both_types
def test_rotation_of_a_slice_of_every_head(dtype):
    x, angles = drawn(5, 3, 14, dtype=dtype), drawn(5, 4, seed=1).detach()
    rotary = x[..., 6:]
    agree(
        passes.rotate_pairs(rotary, angles.cos(), angles.sin()),
        passes._rotate_pairs(rotary, angles.cos(), angles.sin()),
        [x],
        dtype,
    )


@both_types
def test_cross_entropy_and_its_gradient(dtype):
    logits, targets = drawn(9, 50, dtype=dtype, scale=4.0), torch.randint(0, 50, (9,))
    targets[4] = -100
    reference = logits.detach().float().requires_grad_()
    expected = F.cross_entropy(reference, targets, reduction="sum")
    expected.backward()
    loss, gradient = passes.cross_entropy_gradient(logits.detach().clone(), targets)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.float(), reference.grad, **DTYPES[dtype])


def test_cross_entropy_says_when_logits_are_not_numbers():
    logits = torch.zeros(2, 8)
    logits[1, 3] = float("nan")
    loss, _ = passes.cross_entropy_gradient(logits, torch.tensor([0, 1]))
    assert not torch.isfinite(loss)


def test_the_same_bits_on_any_number_of_threads():
    def run(threads):
        torch.set_num_threads(threads)
        x, weight = drawn(1000, 64), drawn(64, seed=1)
        passes.rms_norm(x, weight, 1e-6).square().sum().backward()
        return x.grad, weight.grad

    before = torch.get_num_threads()
    try:
        one, three = run(1), run(3)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))
