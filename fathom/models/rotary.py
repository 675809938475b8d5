"""Rotary position embedding: angles as tensors, and the two ways of pairing elements."""

from functools import lru_cache

import torch
from torch import Tensor

from fathom.kernels import passes
from fathom.models import frequencies
from fathom.models.config import ModelConfig


@lru_cache(maxsize=32)
def _inverse_frequencies(config: ModelConfig, device: torch.device) -> Tensor:
    """Kept, so that a step on a device waits for no transfer."""
    with torch.inference_mode(mode=False):
        return torch.from_numpy(frequencies.inverse_frequencies(config)).to(device)


def cos_sin(config: ModelConfig, positions_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines of every position and pair, float32 [N, rotary_dim / 2]."""
    angles = positions_N[:, None].float() * _inverse_frequencies(config, positions_N.device)
    multiplier = frequencies.rotary_multiplier(config)
    return angles.cos() * multiplier, angles.sin() * multiplier


def rotate_halves(x_NHK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + K/2), as in Hugging Face's Llama and Qwen2; in float32, back in the dtype of x."""
    first, second = x_NHK.float().chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x_NHK.dtype)


def rotate_pairs(x_NHP: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the adjacent pairs (2i, 2i + 1), as in DeepSeek's weights; in float32, back in the dtype of x."""
    return passes.rotate_pairs(x_NHP, cos, sin)
