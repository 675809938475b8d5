"""FP8 products equal the same numbers multiplied in float32; tiles are quantised as the formula says."""

import pytest
import torch

block_scaled = pytest.importorskip("fathom.kernels.triton.block_scaled", reason="triton is not installed")


def spread(scales: torch.Tensor, rows: int, columns: int, height: int) -> torch.Tensor:
    return scales.repeat_interleave(height, 0)[:rows].repeat_interleave(128, 1)[:, :columns]


@pytest.mark.parametrize(("rows", "outputs", "inner"), [(1, 128, 128), (7, 200, 320), (33, 64, 256)])
def test_products(device, rows, outputs, inner):
    torch.manual_seed(rows)
    x, x_scales = block_scaled.quantise_tiles(torch.randn(rows, inner, device=device) * 3)
    weight = (torch.randn(outputs, inner) * 100).clamp(-448, 448).to(torch.float8_e4m3fn)
    weight_scales = torch.rand(-(-outputs // 128), -(-inner // 128)) + 0.1
    got = block_scaled.block_scaled_linear(x, x_scales, weight.to(device), weight_scales.to(device), torch.float32)
    left = x.cpu().float() * spread(x_scales.cpu(), rows, inner, 1)
    expected = left @ (weight.float() * spread(weight_scales, outputs, inner, 128)).T
    error = (got.cpu() - expected).norm() / expected.norm()
    assert error < (1e-5 if device == "cpu" else 2e-3)  # a GPU's FP8 accumulator keeps about 14 bits


def test_tiles(device):
    x = torch.randn(3, 300) * torch.tensor([1e-3, 1.0, 1e4])[:, None]
    x[1, :128] = 0
    values, scales = (tensor.cpu() for tensor in block_scaled.quantise_tiles(x.to(device)))
    assert scales.shape == (3, 3)
    assert bool((values[1, :128].float() == 0).all())
    for row in range(3):
        for tile in range(3):
            part = slice(tile * 128, min(300, tile * 128 + 128))
            largest = x[row, part].abs().max()
            torch.testing.assert_close(scales[row, tile], largest / 448 if largest > 0 else torch.tensor(1.0))
            expected = (x[row, part] / scales[row, tile]).clamp(-448, 448).to(torch.float8_e4m3fn)
            error = (values[row, part].float() - expected.float()).norm()
            # Triton's interpreter (3.9) converts to E4M3 coarsely; a GPU rounds as PyTorch does.
            assert error <= (0.1 * expected.float().norm() if device == "cpu" else 0)
