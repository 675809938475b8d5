"""The two attention products equal a softmax written out, for every mask, shape and way of sharing heads."""

import pytest
import torch

from fathom.kernels.attention import attend, attend_shared


def written_out(query, key, value, visible, scale):
    """One row at a time: query [B,T,H,K], key [B,S,G,K], value [B,S,G,W], visible [B,T,S]."""
    batch, new, heads, _ = query.shape
    out = torch.zeros(batch, new, heads, value.shape[-1])
    for b in range(batch):
        for t in range(new):
            seen = visible[b, t].nonzero()[:, 0]
            for h in range(heads if len(seen) else 0):
                g = h * key.shape[2] // heads
                weights = torch.softmax(key[b, seen, g] @ query[b, t, h] * scale, dim=0)
                out[b, t, h] = weights @ value[b, seen, g]
    return out


def causal(batch, new, context):
    return torch.ones(new, context, dtype=torch.bool).tril(context - new).expand(batch, new, context)


def ragged(batch, new, context):
    """Every sequence has a length of its own, and the last row of the last sequence sees nothing."""
    torch.manual_seed(1)
    visible = causal(batch, new, context).clone()
    for b in range(batch):
        visible[b, :, context - b :] = False
    visible[-1, -1] = False
    return visible


SHAPES = [(1, 1, 1), (2, 1, 7), (2, 5, 5), (2, 3, 7), (3, 4, 9)]
HEADS = [(4, 4, 16, 16), (6, 2, 16, 16), (4, 1, 16, 8), (4, 4, 24, 16)]


@pytest.mark.parametrize(("batch", "new", "context"), SHAPES)
@pytest.mark.parametrize(("heads", "groups", "size", "width"), HEADS)
@pytest.mark.parametrize("masked", [False, True])
def test_attend(batch, new, context, heads, groups, size, width, masked):
    torch.manual_seed(0)
    query, key = torch.randn(batch, new, heads, size), torch.randn(batch, context, groups, size)
    value = torch.randn(batch, context, groups, width)
    visible = ragged(batch, new, context) if masked else causal(batch, new, context)
    ours = attend(query, key, value, visible if masked else None, 0.3)
    torch.testing.assert_close(ours, written_out(query, key, value, visible, 0.3), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("batch", "new", "context"), SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_attend_shared(batch, new, context, masked):
    torch.manual_seed(0)
    query, entries = torch.randn(batch, new, 6, 20), torch.randn(batch, context, 20)
    visible = ragged(batch, new, context) if masked else causal(batch, new, context)
    ours = attend_shared(query, entries, 12, visible if masked else None, 0.3)
    expected = written_out(query, entries[:, :, None], entries[:, :, None, :12], visible, 0.3)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_rows_that_see_nothing_have_no_gradient(shared):
    torch.manual_seed(0)
    query = torch.randn(2, 3, 4, 16, requires_grad=True)
    entries = torch.randn(2, 5, 16, requires_grad=True)
    visible = causal(2, 3, 5).clone()
    visible[1] = False
    if shared:
        out = attend_shared(query, entries, 8, visible, 0.25)
    else:
        out = attend(query, entries[:, :, None], entries[:, :, None, :8], visible, 0.25)
    out.square().sum().backward()
    assert out[1].abs().max() == 0
    assert query.grad[1].abs().max() == 0
    assert entries.grad[1].abs().max() == 0
    assert query.grad.isfinite().all()


def test_one_mask_for_all_sequences():
    query, key = torch.randn(3, 2, 4, 8), torch.randn(3, 5, 2, 8)
    visible = ragged(1, 2, 5)
    for mask in (visible, visible.expand(3, 2, 5)):
        ours = attend(query, key, key, mask, 1.0)
        torch.testing.assert_close(
            ours, written_out(query, key, key, visible.expand(3, 2, 5), 1.0), atol=1e-5, rtol=1e-5
        )
