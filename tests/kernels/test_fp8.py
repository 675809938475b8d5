"""FP8 products against loops over single numbers, to the last bit; and how far they are from exact ones."""

import pytest
import torch

from fathom.checkpoints.fp8 import quantise_fp8
from fathom.kernels.experts import grouped_experts
from fathom.kernels.feed_forward import trained_experts
from fathom.kernels.fp8 import FP8, LARGEST, quantise_blocks, quantise_tiles, scaled_product
from fathom.kernels.products import linear


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator) * torch.rand(shape[0], 1, generator=generator).mul(9).exp()


def naive(left, right, row_block, column_block):
    """Number by number: scale of a tile, E4M3, the exact sum of 128 products, float32 from there on."""

    def quantised(x, block):
        values, scales = torch.empty_like(x), torch.empty_like(x)
        for row in range(0, x.shape[0], block):
            for column in range(0, x.shape[1], 128):
                part = (slice(row, row + block), slice(column, column + 128))
                largest = x[part].abs().max()
                scale = largest / LARGEST if largest > 0 else torch.ones(())
                values[part] = (x[part] / scale).to(torch.float8_e4m3fn).float()
                scales[part] = scale
        return values, scales

    (a, a_scales), (b, b_scales) = quantised(left, row_block), quantised(right, column_block)
    out = torch.zeros(left.shape[0], right.shape[0])
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for start in range(0, left.shape[1], 128):
                products = zip(a[i, start : start + 128].tolist(), b[j, start : start + 128].tolist(), strict=True)
                exact = torch.tensor(sum(x * y for x, y in products), dtype=torch.float64).float()
                out[i, j] += exact * (a_scales[i, start] * b_scales[j, start])
    return out


@pytest.mark.parametrize(("rows", "inner", "outputs"), [(3, 128, 5), (4, 300, 130), (2, 7, 3)])
def test_all_three_products_equal_the_loops_to_the_bit(rows, inner, outputs):
    x, weight, gradient = drawn(rows, inner), drawn(outputs, inner, seed=1), drawn(rows, outputs, seed=2)
    assert torch.equal(FP8.forward(x, weight), naive(x, weight, 1, 128))
    assert torch.equal(FP8.input(gradient, weight), naive(gradient, weight.t(), 1, 128))
    assert torch.equal(FP8.weight(gradient, x), naive(gradient.t(), x.t(), 1, 1))


def test_blocks_are_those_of_the_checkpoints():
    weight = drawn(200, 300)
    ours, (values, scales) = quantise_blocks(weight), quantise_fp8(weight)
    assert torch.equal(ours.values_MK.float(), values.float())
    assert torch.equal(ours.scales_MS, scales)


def test_tiles_keep_an_outlier_from_its_neighbours():
    x = torch.full((1, 256), 0.01)
    x[0, 0] = 1000.0
    values = quantise_tiles(x)
    restored = values.values_MK.float() * values.scales_MS.repeat_interleave(128, dim=1)
    assert restored[0, 0] == 1000.0
    torch.testing.assert_close(restored[0, 128:], x[0, 128:])
    assert (restored[0, 1:128] - 0.01).abs().max() > 0.001  # the first tile is the outlier's


@pytest.mark.parametrize("x", [torch.zeros(2, 130), torch.full((2, 130), 1e-43), torch.full((2, 130), 3e38)])
def test_extreme_tiles_stay_finite(x):
    assert torch.isfinite(scaled_product(quantise_tiles(x), quantise_blocks(torch.ones(4, 130) * 1e-3))).all()


def test_products_are_within_the_precision_of_e4m3():
    x, weight = torch.randn(64, 512), torch.randn(96, 512) * 0.05
    exact = x @ weight.t()
    error = (FP8.forward(x, weight) - exact).norm() / exact.norm()
    assert 0.005 < error < 0.04  # three bits of mantissa on both sides; zero would mean that nothing was quantised


def test_experts_and_linear_layers_train_through_the_seam():
    hidden, weights = torch.randn(40, 32), torch.rand(40, 2)
    selected = torch.rand(40, 4).topk(2).indices
    leaves = [torch.randn(*shape).mul(0.3).requires_grad_() for shape in ((4, 24, 32), (4, 24, 32), (4, 32, 24))]
    exact = grouped_experts(hidden, selected, weights, *leaves)
    fp8 = trained_experts(hidden, selected, weights, *leaves, FP8)
    for ours, theirs in zip(
        (fp8, *torch.autograd.grad(fp8.sum(), leaves)), (exact, *torch.autograd.grad(exact.sum(), leaves)), strict=True
    ):
        assert 0.001 < (ours - theirs).norm() / theirs.norm() < 0.1
    x, weight = torch.randn(5, 3, 32, requires_grad=True), torch.randn(8, 32, requires_grad=True)
    out = linear(x, weight, FP8)
    gradient = torch.randn_like(out)
    for ours, theirs in zip(
        torch.autograd.grad(out, [x, weight], gradient),
        torch.autograd.grad(x @ weight.t(), [x, weight], gradient),
        strict=True,
    ):
        assert (ours - theirs).norm() / theirs.norm() < 0.08


def test_experts_without_rows_have_zero_gradients():
    weights = [torch.randn(3, 8, 16), torch.randn(3, 8, 16), torch.randn(3, 16, 8)]
    leaves = [weight.requires_grad_() for weight in weights]
    out = trained_experts(torch.randn(5, 16), torch.tensor([[0], [2], [2], [0], [2]]), torch.ones(5, 1), *leaves, FP8)
    for gradient in torch.autograd.grad(out.sum(), leaves):
        assert gradient[1].abs().max() == 0
        assert gradient[0].abs().max() > 0
