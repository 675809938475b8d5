"""Rotary position embedding: frequencies (plain, linear, Llama 3.1, YaRN) and the two ways of pairing elements."""

import math

import torch
from torch import Tensor

from fathom.kernels import passes
from fathom.models.config import ModelConfig, RopeScaling


def inverse_frequencies(config: ModelConfig, device: torch.device) -> Tensor:
    """Return the angle per position of every pair, float32 [rotary_dim / 2].

    Computed in float32 step by step as DeepSeek's code and transformers do: at position 100,000 a last-bit difference
    here would already turn a pair by a hundredth of a radian.
    """
    size = config.rotary_dim
    exponents = torch.arange(0, size, 2, dtype=torch.float32, device=device) / size
    plain = 1.0 / config.rope_theta**exponents
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    if scaling.type == "linear":
        return plain / scaling.factor
    if scaling.type == "llama3":
        return _llama3(plain, scaling)
    return _yarn(plain, config.rope_theta, size, scaling)


def _llama3(plain: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1: long waves divided by the factor, short ones kept, a linear blend between."""
    trained, low, high = scaling.original_max_position_embeddings, scaling.low_freq_factor, scaling.high_freq_factor
    assert trained is not None
    assert low is not None
    assert high is not None
    lengths = 2 * math.pi / plain
    blend = ((trained / lengths - low) / (high - low)).clamp(0, 1)
    return (1 - blend) * plain / scaling.factor + blend * plain


def _yarn(plain: Tensor, theta: float, size: int, scaling: RopeScaling) -> Tensor:
    """YaRN (arXiv 2309.00071, section 3.2): keep pairs that turn often in the trained length, slow down the others."""
    trained = scaling.original_max_position_embeddings
    assert trained is not None

    def pair_turning(times: float) -> float:
        return size * math.log(trained / (times * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair_turning(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_turning(scaling.beta_slow)), size - 1)
    width = high - low if high != low else 0.001
    pairs = torch.arange(size // 2, dtype=torch.float32, device=plain.device)
    slowed = ((pairs - low) / width).clamp(0, 1)
    return plain / scaling.factor * slowed + plain * (1 - slowed)


def yarn_mscale(factor: float, mscale: float) -> float:
    """Return 0.1 * mscale * ln(factor) + 1, the growth of attention's temperature (V2, section 3.1.4)."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def softmax_scale(config: ModelConfig) -> float:
    """Return what scores are multiplied by: K^-0.5, and for DeepSeek's YaRN times mscale(mscale_all_dim) squared."""
    scale = float(config.qk_head_dim**-0.5)
    scaling = config.rope_scaling
    if config.is_latent and scaling is not None and scaling.mscale_all_dim:
        scale *= yarn_mscale(scaling.factor, scaling.mscale_all_dim) ** 2
    return scale


def rotary_multiplier(config: ModelConfig) -> float:
    """Return what cosines and sines are multiplied by under YaRN (1 otherwise).

    DeepSeek's code divides mscale(mscale) by mscale(mscale_all_dim), where a missing `mscale` counts as 1 and a
    missing `mscale_all_dim` as 0. transformers takes that ratio only if both are given and else ignores them; for
    `llama` and `qwen2`, which have no other authority, that is what happens here too.
    """
    scaling = config.rope_scaling
    if scaling is None or scaling.type != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if config.is_latent or (scaling.mscale and scaling.mscale_all_dim):
        mscale = 1.0 if scaling.mscale is None else scaling.mscale
        return yarn_mscale(scaling.factor, mscale) / yarn_mscale(scaling.factor, scaling.mscale_all_dim or 0.0)
    return yarn_mscale(scaling.factor, 1.0)


def cos_sin(config: ModelConfig, positions_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines of every position and pair, float32 [N, rotary_dim / 2]."""
    angles = positions_N[:, None].float() * inverse_frequencies(config, positions_N.device)
    multiplier = rotary_multiplier(config)
    return angles.cos() * multiplier, angles.sin() * multiplier


def rotate_halves(x_NHK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + K/2), as in Hugging Face's Llama and Qwen2; in float32, back in the dtype of x."""
    first, second = x_NHK.float().chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x_NHK.dtype)


def rotate_pairs(x_NHP: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the adjacent pairs (2i, 2i + 1), as in DeepSeek's weights; in float32, back in the dtype of x."""
    return passes.rotate_pairs(x_NHP, cos, sin)
