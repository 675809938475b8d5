"""The paged decode kernel equals its plain twin, over scattered pages and any lengths."""

import pytest
import torch

from fathom.kernels.attention import attend_shared

latent = pytest.importorskip("fathom.kernels.triton.latent", reason="triton is not installed")
PAGE = 16


def twin(query_BHC, slots_XC, pages, lengths, rank, scale):
    rows = []
    for query_HC, own, length in zip(query_BHC, pages, lengths, strict=True):
        slots = torch.cat([page * PAGE + torch.arange(PAGE) for page in own])[:length]
        rows.append(attend_shared(query_HC[None, None], slots_XC[slots][None], rank, None, scale)[0, 0])
    return torch.stack(rows)


@pytest.mark.parametrize("heads", [1, 5, 16, 20])
@pytest.mark.parametrize("programs", [1, 264])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 2e-2)])
def test_it_equals_the_twin(device, heads, programs, dtype, tolerance, monkeypatch):
    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies no bfloat16")
    monkeypatch.setattr(latent, "PROGRAMS", programs)
    torch.manual_seed(heads)
    rank, rope, lengths = 32, 8, [1, 16, 17, 100]
    slots_XC = torch.randn(64 * PAGE, rank + rope).to(dtype)
    query_BHC = torch.randn(len(lengths), heads, rank + rope).to(dtype)
    pages = [torch.randperm(64)[: -(-length // PAGE)] for length in lengths]
    table = torch.full((len(lengths), 7), 10**6, dtype=torch.int32)  # a page that must not be read
    for row, own in enumerate(pages):
        table[row, : len(own)] = own
    got = latent.latent_decode(
        query_BHC.to(device), slots_XC.to(device), table.to(device),
        torch.tensor(lengths, dtype=torch.int32, device=device), rank, 0.2, PAGE,
    )  # fmt: skip
    expected = twin(query_BHC.float(), slots_XC.float(), pages, lengths, rank, 0.2)
    torch.testing.assert_close(got.cpu().float(), expected, atol=tolerance, rtol=tolerance)


@torch.no_grad()
@pytest.mark.parametrize("name", ["tiny-v2", "tiny-v3"])
def test_a_model_over_pages_gives_the_same_logits(device, name, monkeypatch):
    from fathom.engine import paged_cache
    from fathom.engine.runner import SequenceStep
    from fathom.engine.torch_runner import TorchRunner
    from fathom.models import PRESETS
    from fathom.models.transformer import Transformer

    torch.manual_seed(0)
    model = Transformer(PRESETS[name]).eval().to(device)
    answers = []
    for reads in (False, True):
        monkeypatch.setattr(paged_cache, "reads_pages", lambda *_sizes, reads=reads: reads)
        runner = TorchRunner(model, n_pages=8, max_context=256)
        runner.step([SequenceStep(range(70), 0, [5, 2], 70), SequenceStep(range(9, 12), 0, [7], 3)])
        answers.append(runner.step([SequenceStep([3], 70, [5, 2], 0), SequenceStep([4], 3, [7], 0)]).cpu())
    torch.testing.assert_close(*answers, atol=1e-5, rtol=1e-5)
