"""Rotary position embedding in numbers: frequencies (plain, linear, Llama 3.1, YaRN), tables, scales; without torch."""

import math

import numpy as np
from numpy.typing import NDArray

from fathom.models.config import ModelConfig, RopeScaling

Floats = NDArray[np.float32]


def inverse_frequencies(config: ModelConfig) -> Floats:
    """Return the angle per position of every pair, float32 [rotary_dim / 2].

    Computed in float32 step by step as DeepSeek's code and transformers do: at position 100,000 a last-bit difference
    here would already turn a pair by a hundredth of a radian. Powers are rounded once, from float64.
    """
    size = config.rotary_dim
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    plain = np.float32(1.0) / np.power(float(config.rope_theta), exponents.astype(np.float64)).astype(np.float32)
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    if scaling.type == "linear":
        return plain / np.float32(scaling.factor)
    if scaling.type == "llama3":
        return _llama3(plain, scaling)
    return _yarn(plain, config.rope_theta, size, scaling)


def _llama3(plain: Floats, scaling: RopeScaling) -> Floats:
    """Llama 3.1: long waves divided by the factor, short ones kept, a linear blend between."""
    trained, low, high = scaling.original_max_position_embeddings, scaling.low_freq_factor, scaling.high_freq_factor
    assert trained is not None
    assert low is not None
    assert high is not None
    lengths = np.float32(2 * math.pi) / plain
    blend: Floats = ((np.float32(trained) / lengths - np.float32(low)) / np.float32(high - low)).clip(0, 1)
    return (1 - blend) * plain / np.float32(scaling.factor) + blend * plain


def _yarn(plain: Floats, theta: float, size: int, scaling: RopeScaling) -> Floats:
    """YaRN (arXiv 2309.00071, section 3.2): keep pairs that turn often in the trained length, slow down the others."""
    trained = scaling.original_max_position_embeddings
    assert trained is not None

    def pair_turning(times: float) -> float:
        return size * math.log(trained / (times * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair_turning(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_turning(scaling.beta_slow)), size - 1)
    width = high - low if high != low else 0.001
    pairs = np.arange(size // 2, dtype=np.float32)
    slowed: Floats = ((pairs - np.float32(low)) / np.float32(width)).clip(0, 1)
    return plain / np.float32(scaling.factor) * slowed + plain * (1 - slowed)


def tables(config: ModelConfig, positions: int) -> tuple[Floats, Floats]:
    """Return cosines and sines of the first positions, float32 [positions, rotary_dim / 2]."""
    angles = np.arange(positions, dtype=np.float32)[:, None] * inverse_frequencies(config)
    multiplier = np.float32(rotary_multiplier(config))
    return np.cos(angles) * multiplier, np.sin(angles) * multiplier


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
