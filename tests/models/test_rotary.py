"""Frequencies and rotations at positions far beyond what tiny sequences reach."""

from dataclasses import replace

import pytest
import torch

from fathom.models import PRESETS, RopeScaling
from fathom.models.frequencies import rotary_multiplier, softmax_scale, tables
from fathom.models.rotary import cos_sin, rotate_halves, rotate_pairs

NAMES = ["v2-lite", "v2.5", "v3", "r1-distill-qwen-7b", "r1-distill-qwen-32b", "r1-distill-llama-8b", "smollm2-135m"]


@pytest.mark.parametrize("name", NAMES)
def test_angles_of_the_published_models_equal_transformers(name):
    from transformers import AutoConfig
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3RotaryEmbedding
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = PRESETS[name]
    published = config.to_hf()
    theirs = AutoConfig.for_model(published.pop("model_type"), **published)
    embedding = (DeepseekV3RotaryEmbedding if config.is_latent else LlamaRotaryEmbedding)(theirs)
    positions = torch.tensor([0, 1, 17, 4095, 4096, 100_000, config.max_position_embeddings - 1])
    cos, sin = embedding(torch.zeros(1), positions[None])
    half = config.rotary_dim // 2
    ours = cos_sin(config, positions)
    torch.testing.assert_close(ours[0], cos[0, :, :half], atol=2e-3, rtol=0)
    torch.testing.assert_close(ours[1], sin[0, :, :half], atol=2e-3, rtol=0)
    torch.testing.assert_close(cos_sin(config, positions[:5])[0], cos[0, :5, :half], atol=1e-4, rtol=0)


def test_softmax_scale():
    """V3: 192^-0.5 * (0.1 ln 40 + 1)^2; V2: with 0.0707 (report, section 3.1.4)."""
    assert softmax_scale(PRESETS["v3"]) == pytest.approx(192**-0.5 * 1.3688879**2)
    assert softmax_scale(PRESETS["v2"]) == pytest.approx(192**-0.5 * 1.2608037**2)
    assert softmax_scale(PRESETS["r1-distill-llama-8b"]) == 128**-0.5
    assert rotary_multiplier(PRESETS["v3"]) == rotary_multiplier(PRESETS["v2"]) == 1.0


def test_yarn_that_stretches_nothing_changes_nothing():
    config = PRESETS["tiny-v3"]
    same = replace(config, rope_scaling=RopeScaling("yarn", 1.0, original_max_position_embeddings=64))
    positions = torch.arange(50)
    for ours, plain in zip(cos_sin(same, positions), cos_sin(config, positions), strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("name", [*NAMES, "tiny-v3"])
def test_the_tables_of_the_native_kernels_are_those_of_the_model(name):
    config = PRESETS[name]
    for numbers, tensor in zip(tables(config, 300), cos_sin(config, torch.arange(300)), strict=True):
        torch.testing.assert_close(torch.from_numpy(numbers), tensor, atol=2e-7, rtol=0)


@pytest.mark.parametrize("rotate", [rotate_halves, rotate_pairs])
def test_rotations_keep_lengths_and_only_differences_of_positions_matter(rotate):
    config = PRESETS["tiny-v3"]
    query, key = torch.randn(1, 3, 8), torch.randn(1, 3, 8)

    def score(at_query, at_key):
        turned = [rotate(x, *cos_sin(config, torch.tensor([at]))) for x, at in ((query, at_query), (key, at_key))]
        assert torch.allclose(turned[0].norm(dim=-1), query.norm(dim=-1), atol=1e-5)
        return (turned[0] * turned[1]).sum(-1)

    torch.testing.assert_close(score(9, 4), score(105, 100), atol=1e-4, rtol=1e-4)
    assert (score(9, 4) - score(9, 5)).abs().max() > 1e-3


def test_the_two_pairings_are_permutations_of_each_other():
    config = PRESETS["tiny-v3"]
    x, angles = torch.randn(5, 2, 8), cos_sin(config, torch.arange(5))
    adjacent = torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1)
    expected = rotate_halves(adjacent, *angles)
    turned = rotate_pairs(x, *angles)
    torch.testing.assert_close(torch.cat((turned[..., 0::2], turned[..., 1::2]), dim=-1), expected)


def test_rotation_keeps_the_dtype():
    x = torch.randn(4, 2, 8, dtype=torch.bfloat16)
    assert rotate_pairs(x, *cos_sin(PRESETS["tiny-v3"], torch.arange(4))).dtype == torch.bfloat16
