"""Decoding with absorbed latent attention over a paged cache, where the entries lie (DeepSeek-V2, appendix C).

The plain twin is `kernels.attention.attend_shared` on gathered entries. Bytes are the limit of decoding: each entry
is read once for all heads of a program, and a long context is split over programs whose partial results are merged by
their log-sum-exp (split-KV, as FlashDecoding and FlashMLA do).

B sequences, H heads, C = R+P elements of an entry (latent, rotary part), Z splits of the context.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

HEADS = 16  # rows of one product: the smallest that tensor cores take
PROGRAMS = 264  # two for each multiprocessor of an H100; more splits cost merging, fewer leave some idle


def latent_decode(
    query_BHC: Tensor, slots_XC: Tensor, pages_BP: Tensor, lengths_B: Tensor, rank: int, scale: float, page_tokens: int
) -> Tensor:
    """Attention of one new token per sequence over its pages; returns [B, H, R] in the dtype of the query.

    Args:
        query_BHC: queries with the key expansion folded in, then their rotated part; contiguous.
        slots_XC: one layer's cache, slot = page * page_tokens + offset; the dtype of the query.
        pages_BP: int32, the pages of each sequence in order; what lies beyond its length is not read.
        lengths_B: int32, tokens of each sequence, the new one included; at least 1.
        rank: R; a power of two, at least 16.
        scale: of the scores.
        page_tokens: tokens of a page; a power of two, at least 16.

    """
    batch, heads, width = query_BHC.shape
    blocks = triton.cdiv(heads, HEADS)
    splits = max(1, min(pages_BP.shape[1], PROGRAMS // (batch * blocks)))
    partial_BZHR = torch.empty(batch, splits, heads, rank, dtype=torch.float32, device=query_BHC.device)
    sums_BZH = torch.empty(batch, splits, heads, dtype=torch.float32, device=query_BHC.device)
    _attend_part[(batch, blocks, splits)](
        query_BHC.contiguous(),
        slots_XC,
        pages_BP,
        lengths_B,
        partial_BZHR,
        sums_BZH,
        scale * 1.4426950408889634,  # exp2 instead of exp
        heads,
        pages_BP.stride(0),
        R=rank,
        P=width - rank,
        P_PADDED=max(16, triton.next_power_of_2(width - rank)),
        PAGE=page_tokens,
        HEADS=HEADS,
        num_stages=2,
        num_warps=8,
    )
    out_BHR = torch.empty(batch, heads, rank, dtype=query_BHC.dtype, device=query_BHC.device)
    _merge[(batch, heads)](partial_BZHR, sums_BZH, out_BHR, splits, Z=triton.next_power_of_2(splits), R=rank)
    return out_BHR


@triton.jit
def _attend_part(
    query,
    slots,
    pages,
    lengths,
    partial,
    sums,
    scale,
    heads,
    pages_stride,
    R: tl.constexpr,
    P: tl.constexpr,
    P_PADDED: tl.constexpr,
    PAGE: tl.constexpr,
    HEADS: tl.constexpr,
):
    """One sequence, HEADS heads, one split of its pages: softmax-weighted latents and the log2 of the sum."""
    sequence, split, splits = tl.program_id(0), tl.program_id(2), tl.num_programs(2)
    C: tl.constexpr = R + P
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    rank, rope, offset = tl.arange(0, R), tl.arange(0, P_PADDED), tl.arange(0, PAGE)
    rows = (sequence * heads + head) * C
    real_head, real_rope = head[:, None] < heads, rope[None, :] < P
    query_latent = tl.load(query + rows[:, None] + rank[None, :], mask=real_head, other=0.0)
    query_rope = tl.load(query + rows[:, None] + R + rope[None, :], mask=real_head & real_rope, other=0.0)

    length = tl.load(lengths + sequence)
    per_split = tl.cdiv(tl.cdiv(length, PAGE), splits)
    first = split * per_split
    last = tl.minimum(first + per_split, tl.cdiv(length, PAGE))
    best = tl.full([HEADS], float("-inf"), dtype=tl.float32)
    total = tl.zeros([HEADS], dtype=tl.float32)
    result = tl.zeros([HEADS, R], dtype=tl.float32)
    for number in range(first, last):
        page = tl.load(pages + sequence * pages_stride + number).to(tl.int64)
        entry = (page * PAGE + offset) * C
        seen = number * PAGE + offset < length
        latent = tl.load(slots + entry[:, None] + rank[None, :], mask=seen[:, None], other=0.0)
        key_rope = tl.load(slots + entry[:, None] + R + rope[None, :], mask=seen[:, None] & real_rope, other=0.0)
        scores = tl.dot(query_latent, tl.trans(latent), input_precision="ieee")
        scores = tl.dot(query_rope, tl.trans(key_rope), acc=scores, input_precision="ieee") * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        better = tl.maximum(best, tl.max(scores, 1))
        weights = tl.exp2(scores - better[:, None])
        shrink = tl.exp2(best - better)
        total = total * shrink + tl.sum(weights, 1)
        result = tl.dot(weights.to(latent.dtype), latent, acc=result * shrink[:, None], input_precision="ieee")
        best = better
    # A split without pages has the sum 0, whose logarithm is minus infinity: the merge gives it no weight.
    row = (sequence * splits + split) * heads + head
    safe = tl.where(total > 0, total, 1.0)
    tl.store(partial + row[:, None] * R + rank[None, :], result / safe[:, None], mask=real_head)
    tl.store(sums + row, tl.where(total > 0, best + tl.log2(safe), float("-inf")), mask=head < heads)


@triton.jit
def _merge(partial, sums, out, splits, Z: tl.constexpr, R: tl.constexpr):
    """Add the splits of one sequence and head, each weighted by its share of the whole sum."""
    sequence, head, heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    split, rank = tl.arange(0, Z), tl.arange(0, R)
    row = (sequence * splits + split) * heads + head
    log_sum = tl.load(sums + row, mask=split < splits, other=float("-inf"))
    weight = tl.exp2(log_sum - tl.max(log_sum, 0))
    part = tl.load(partial + row[:, None] * R + rank[None, :], mask=split[:, None] < splits, other=0.0)
    merged = tl.sum(part * weight[:, None], 0) / tl.sum(weight, 0)
    tl.store(out + (sequence * heads + head) * R + rank, merged.to(out.dtype.element_ty))
