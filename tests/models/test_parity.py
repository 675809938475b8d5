"""Logits equal those of transformers on tiny random weights, within 1e-5 in float32, for every option we have.

Three ways each: whole sequences, a prompt followed by single steps, and a batch of different lengths.
"""

from dataclasses import replace

import pytest
import torch

from fathom.models import PRESETS, RopeScaling
from fathom.models.cache import ContiguousCache

YARN = RopeScaling("yarn", 40.0, original_max_position_embeddings=64, mscale=0.707, mscale_all_dim=0.707)
LLAMA3 = RopeScaling("llama3", 8.0, original_max_position_embeddings=64, low_freq_factor=1.0, high_freq_factor=4.0)
LLAMA, QWEN, V2, V3 = (PRESETS[f"tiny-{name}"] for name in ("llama", "qwen2", "v2", "v3"))

CONFIGS = {
    "llama": LLAMA,
    "llama-tied": replace(LLAMA, tie_word_embeddings=True),
    "llama-biases": replace(LLAMA, attention_bias=True),
    "llama-head-dim": replace(LLAMA, head_dim=24),
    "llama-one-key-head": replace(LLAMA, num_key_value_heads=1),
    "llama-all-key-heads": replace(LLAMA, num_key_value_heads=4),
    "llama-llama3": replace(LLAMA, rope_scaling=LLAMA3, rope_theta=500000.0),
    "llama-linear": replace(LLAMA, rope_scaling=RopeScaling("linear", 4.0)),
    "llama-eps": replace(LLAMA, rms_norm_eps=1e-2),
    "qwen2": QWEN,
    "qwen2-tied": replace(QWEN, tie_word_embeddings=True, rope_theta=1e6),
    "qwen2-yarn": replace(QWEN, rope_scaling=RopeScaling("yarn", 4.0, original_max_position_embeddings=64)),
    "qwen2-yarn-factor": replace(
        QWEN, rope_scaling=RopeScaling("yarn", 4.0, original_max_position_embeddings=64, attention_factor=0.8)
    ),
    "v2": V2,
    "v2-no-query-rank": replace(V2, q_lora_rank=None),
    "v2-greedy": replace(V2, topk_method="greedy", n_group=1, topk_group=1, routed_scaling_factor=1.0),
    "v2-yarn-0.707": replace(V2, rope_scaling=YARN),
    "v2-yarn-1.0": replace(V2, rope_scaling=replace(YARN, mscale=1.0, mscale_all_dim=1.0)),
    "v2-yarn-plain": replace(V2, rope_scaling=replace(YARN, mscale=None, mscale_all_dim=None)),
    "v2-all-dense": replace(V2, first_k_dense_replace=3),
    "v2-no-dense": replace(V2, first_k_dense_replace=0),
    "v2-eps": replace(V2, rms_norm_eps=1e-2),
    "v3": V3,
    "v3-no-query-rank": replace(V3, q_lora_rank=None),
    "v3-yarn": replace(V3, rope_scaling=replace(YARN, mscale=1.0, mscale_all_dim=1.0)),
    "v3-one-group": replace(V3, n_group=1, topk_group=1),
    "v3-not-normalised": replace(V3, norm_topk_prob=False),
    "v3-two-shared": replace(V3, n_shared_experts=2),
    "v3-tied": replace(V3, tie_word_embeddings=True),
    "v3-eps": replace(V3, rms_norm_eps=1e-2),
}


@pytest.fixture(params=CONFIGS, scope="module")
def pair(request, make_pair):
    return make_pair(CONFIGS[request.param])


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_whole_sequences(pair, whole_logits):
    theirs, ours = pair
    tokens = torch.randint(0, 512, (2, 70))
    close(whole_logits(ours, tokens), theirs(tokens).logits)


@torch.no_grad()
def test_prompt_then_steps(pair):
    theirs, ours = pair
    tokens = torch.randint(0, 512, (2, 12))
    expected = theirs(tokens).logits
    cache = ContiguousCache(ours.config, 2, 12)
    for start, end in ((0, 7), (7, 8), (8, 11), (11, 12)):
        positions = cache.extend([end - start] * 2)
        logits = ours.logits(ours(tokens[:, start:end].reshape(-1), positions, cache))
        close(logits.view(2, end - start, -1), expected[:, start:end])


@torch.no_grad()
def test_different_lengths(pair):
    theirs, ours = pair
    lengths = [9, 3, 9, 1]
    sequences = [torch.randint(0, 512, (length,)) for length in lengths]
    nexts = [torch.randint(0, 512, (count,)) for count in (1, 1, 2, 0)]
    cache = ContiguousCache(ours.config, 4, 16)
    first = ours.logits(ours(torch.cat(sequences), cache.extend(lengths), cache)).split(lengths)
    second = ours.logits(ours(torch.cat(nexts), cache.extend([1, 1, 2, 0]), cache)).split([1, 1, 2, 0])
    for start, end, tokens, more in zip(first, second, sequences, nexts, strict=True):
        close(torch.cat((start, end)), theirs(torch.cat((tokens, more))[None]).logits[0])
