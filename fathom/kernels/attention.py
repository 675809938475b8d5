"""Attention over a rectangle of sequences, by PyTorch's fused kernel, laid out so that it stays on its fast path.

B sequences, T new tokens, S tokens looked at, H query heads, G key/value heads, K head size, W value size, C entry.
"""

from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.kernels.attention_backward import attend_causally, trains_causally


def attend(query_BTHK: Tensor, key_BSGK: Tensor, value_BSGW: Tensor, mask_BTS: Tensor | None, scale: float) -> Tensor:
    """Softmax attention with grouped heads; returns [B, T, H, W] in the dtype of the query.

    `mask_BTS` is true where a token may look (B may be 1); None means causal, aligned at the end: token t of the T new
    ones sees the first S-T+t+1. A row that may look at nothing (padding) gives zeros, not NaN. Query head h reads
    key/value head h // (H/G). W may be smaller than K.
    """
    if trains_causally(query_BTHK, key_BSGK, mask_BTS):
        return attend_causally(query_BTHK, key_BSGK, value_BSGW, scale)
    query, key, value = (tensor.transpose(1, 2) for tensor in (query_BTHK, key_BSGK, value_BSGW))
    batch, heads, new, size = query.shape
    groups, width = key.shape[1], value.shape[3]
    mask, causal = _visible(mask_BTS, new, key.shape[2], query.device)
    if width < size:
        # The fused CPU and flash kernels take one head size only; padding values beats their fallback by two to one.
        value = F.pad(value, (0, size - width))
    if new == 1 and heads != groups:
        # One token: the heads that share keys become the rows of one product, and no key is repeated in memory.
        query = query.reshape(batch, groups, heads // groups, size)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        out = out.reshape(batch, heads, 1, -1)
    else:
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=heads != groups
        )
    return out.transpose(1, 2)[..., :width]


def attend_shared(query_BTHC: Tensor, entries_BSC: Tensor, width: int, mask_BTS: Tensor | None, scale: float) -> Tensor:
    """Attention of all heads over one shared key, whose first `width` elements are the value; returns [B, T, H, width].

    Absorbed latent attention (DeepSeek-V2, appendix C): the cache entries themselves are key and value. All heads and
    tokens become the rows of one product per sequence, so the entries are never repeated. Softmax in float32. A row
    that may look at nothing gives zeros.
    """
    batch, new, heads, size = query_BTHC.shape
    context = entries_BSC.shape[1]
    mask, causal = _visible(mask_BTS, new, context, query_BTHC.device)
    if causal:
        mask = _triangle(new, context, query_BTHC.device)
    rows = query_BTHC.reshape(batch, new * heads, size)
    scores = torch.matmul(rows * scale, entries_BSC.transpose(1, 2)).view(batch, new, heads, context)
    if mask is not None:
        scores = scores.masked_fill(~mask.transpose(1, 2), float("-inf"))
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
    if mask_BTS is not None:
        weights = weights.masked_fill(~mask_BTS.any(dim=-1)[:, :, None, None], 0.0)
    weights = weights.to(entries_BSC.dtype).view(batch, new * heads, context)
    return torch.matmul(weights, entries_BSC[..., :width]).view(batch, new, heads, width)


class PagedEntries(NamedTuple):
    """One layer's cache as it lies, and where the entries of B sequences are in it."""

    slots_XC: Tensor  # slot = page * page_tokens + offset
    pages_BP: Tensor  # int32, pages in order; what lies beyond a sequence's length is not read
    lengths_B: Tensor  # int32, tokens of each sequence, the new one included
    page_tokens: int


@cache
def reads_pages(device: torch.device, rank: int, page_tokens: int) -> bool:
    """Whether `attend_shared_paged` has its kernel on this device (Triton, on CUDA) for these sizes."""
    takes = all(size >= 16 and size.bit_count() == 1 for size in (rank, page_tokens))
    return takes and device.type == "cuda" and find_spec("triton") is not None


def attend_shared_paged(query_BHC: Tensor, entries: PagedEntries, width: int, scale: float) -> Tensor:
    """`attend_shared` for one new token a sequence, reading the entries where they lie; returns [B, H, width]."""
    from fathom.kernels.triton.latent import latent_decode  # Triton is there on CUDA machines only

    return latent_decode(query_BHC, *entries[:3], width, scale, entries.page_tokens)


def _visible(mask_BTS: Tensor | None, new: int, context: int, device: torch.device) -> tuple[Tensor | None, bool]:
    """Return the mask [B or 1, 1, T, S] for the fused kernel, and whether its own causal triangle says the same."""
    if mask_BTS is not None:
        return mask_BTS[:, None], False
    if new == context:
        return None, new > 1
    return (None if new == 1 else _triangle(new, context, device)), False


def _triangle(new: int, context: int, device: torch.device) -> Tensor:
    return torch.ones(new, context, dtype=torch.bool, device=device).tril(context - new)[None, None]
