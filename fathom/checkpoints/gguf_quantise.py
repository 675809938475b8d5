"""From numbers to GGUF's blocks, with llama.cpp's arithmetic (ggml-quants.c, quantize_row_*_ref)."""

import numpy as np
import torch
from torch import Tensor

from fathom.checkpoints.gguf_tensors import PLAIN_DTYPES
from fathom.checkpoints.gguf_types import Floats
from fathom.checkpoints.mapping import Bytes


def encode(type_name: str, values: Tensor) -> Bytes:
    """The bytes of a tensor of this type, uint8 [bytes]; rows are whole blocks."""
    values = values.contiguous()
    if type_name in PLAIN_DTYPES:
        return values.to(PLAIN_DTYPES[type_name]).view(torch.uint8).numpy().reshape(-1)
    blocks = values.float().numpy().reshape(-1, 32)
    return {"Q8_0": quantise_q8_0, "Q4_0": quantise_q4_0}[type_name](blocks).reshape(-1)


def quantise_q8_0(blocks: Floats) -> Bytes:
    """32 bytes and their float16 scale, largest magnitude / 127: uint8 [n, 34]."""
    scales = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore"):
        inverse = np.where(scales == 0, 0, 1 / scales)
    codes = _rounded(blocks * inverse).astype(np.int8)
    return np.concatenate([scales.astype(np.float16).view(np.uint8), codes.view(np.uint8)], axis=1)


def quantise_q4_0(blocks: Floats) -> Bytes:
    """32 half-bytes and their float16 scale, the value of largest magnitude / -8: uint8 [n, 18]."""
    chosen = np.abs(blocks).argmax(axis=1, keepdims=True)
    scales = np.take_along_axis(blocks, chosen, axis=1) / np.float32(-8)
    with np.errstate(divide="ignore"):
        inverse = np.where(scales == 0, 0, 1 / scales)
    codes = np.trunc(blocks * inverse + np.float32(8.5)).clip(0, 15).astype(np.uint8)
    packed = codes[:, :16] | (codes[:, 16:] << np.uint8(4))
    return np.concatenate([scales.astype(np.float16).view(np.uint8), packed], axis=1)


def _rounded(values: Floats) -> Floats:
    """To the nearest whole number, halves away from zero (C's roundf)."""
    rounded: Floats = np.trunc(values + np.copysign(np.float32(0.5), values))
    return rounded
