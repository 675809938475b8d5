"""GGUF's tensor types: their blocks, and the arithmetic that turns blocks back into numbers.

Each row of a tensor is cut into blocks of 32 or 256 weights with common scales (llama.cpp: ggml/src/ggml-common.h for
the layouts, ggml-quants.c for the arithmetic). Every function here takes blocks as uint8 [n, bytes] and returns
float32 [n, weights]; the order of the float operations is llama.cpp's, so results are equal to the last bit.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fathom.checkpoints.errors import UnsupportedTypeError
from fathom.checkpoints.mapping import Bytes

Floats = NDArray[np.float32]
_ONE, _TWO, _THREE, _FOUR, _LOW = (np.uint8(number) for number in (1, 2, 3, 4, 0x0F))
_CHUNK_WEIGHTS = 1 << 17  # float32 pieces of 512 KB stay in the second-level cache


@dataclass(frozen=True, slots=True)
class BlockType:
    """A tensor type: `weights` numbers are stored in `bytes` bytes."""

    name: str
    weights: int
    bytes: int


BLOCK_TYPES: dict[int, BlockType] = {
    number: BlockType(name, weights, size)
    for number, name, weights, size in [
        (0, "F32", 1, 4),
        (1, "F16", 1, 2),
        (2, "Q4_0", 32, 18),
        (3, "Q4_1", 32, 20),
        (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24),
        (8, "Q8_0", 32, 34),
        (10, "Q2_K", 256, 84),
        (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144),
        (13, "Q5_K", 256, 176),
        (14, "Q6_K", 256, 210),
        (15, "Q8_K", 256, 292),
        (30, "BF16", 1, 2),
    ]
}
BY_NAME = {block.name: block for block in BLOCK_TYPES.values()}

# Types that exist and are not read; named so that the message can say which one it is.
UNREAD_TYPES: dict[int, str] = {
    9: "Q8_1", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S",
    23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0",
    39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip


def _half(blocks: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of each block, as float32 [n, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """uint8 [n, 16] -> [n, 32]: all low halves, then all high halves."""
    return np.concatenate([packed & _LOW, packed >> _FOUR], axis=1)


def _fifth_bits(packed: Bytes) -> Bytes:
    """The 32 bits of a little-endian u32 in each block, uint8 [n, 4] -> [n, 32] of 0 or 16."""
    return np.unpackbits(packed, axis=1, bitorder="little") << _FOUR


def dequantise_q4_0(blocks: Bytes) -> Floats:
    """Each weight is d * (q - 8)."""
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - np.float32(8))


def dequantise_q4_1(blocks: Bytes) -> Floats:
    """Each weight is d * q + m."""
    values = _nibbles(blocks[:, 4:]).astype(np.float32)
    values *= _half(blocks, 0)
    values += _half(blocks, 2)
    return values


def dequantise_q5_0(blocks: Bytes) -> Floats:
    """Each weight is d * (q - 16), the fifth bits in a word of their own."""
    quants = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return _half(blocks, 0) * (quants.astype(np.float32) - np.float32(16))


def dequantise_q5_1(blocks: Bytes) -> Floats:
    """Each weight is d * q + m, the fifth bits in a word of their own."""
    quants = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return _half(blocks, 0) * quants.astype(np.float32) + _half(blocks, 2)


def dequantise_q8_0(blocks: Bytes) -> Floats:
    """Each weight is d * q."""
    values = blocks[:, 2:].view(np.int8).astype(np.float32)
    values *= _half(blocks, 0)
    return values


def _crumbs(packed: Bytes) -> Bytes:
    """Two-bit numbers, uint8 [n, 64] -> [n, 16, 16] in the order of the weights (two halves of 4 shifts of 32)."""
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8).reshape(1, 1, 4, 1)
    return ((packed.reshape(-1, 2, 1, 32) >> shifts) & _THREE).reshape(-1, 16, 16)


def dequantise_q2_k(blocks: Bytes) -> Floats:
    """Each weight is d * scale * q - dmin * minimum; 16 groups of 16 with 4-bit scales and minima."""
    scales = blocks[:, :16]
    group_scale = _half(blocks, 80) * (scales & _LOW).astype(np.float32)
    group_minimum = _half(blocks, 82) * (scales >> _FOUR).astype(np.float32)
    values = group_scale[:, :, None] * _crumbs(blocks[:, 16:80]).astype(np.float32) - group_minimum[:, :, None]
    return values.reshape(-1, 256)


def dequantise_q3_k(blocks: Bytes) -> Floats:
    """Each weight is d * (scale - 32) * (q - 4 where the high bit is clear); 16 groups of 16 with 6-bit scales."""
    high = np.unpackbits(blocks[:, :32].reshape(-1, 1, 32), axis=1, bitorder="little").reshape(-1, 16, 16)
    quants = _crumbs(blocks[:, 32:96]).astype(np.int8) - ((high ^ _ONE) << _TWO).astype(np.int8)
    packed = blocks[:, 96:108]
    low_bits = np.concatenate([packed[:, :8] & _LOW, packed[:, :8] >> _FOUR], axis=1)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8).reshape(1, 4, 1)
    high_bits = ((packed[:, 8:].reshape(-1, 1, 4) >> shifts) & _THREE).reshape(-1, 16)
    scales = (low_bits | (high_bits << _FOUR)).astype(np.int8) - np.int8(32)
    group_scale = _half(blocks, 108) * scales.astype(np.float32)
    values: Floats = group_scale[:, :, None] * quants.astype(np.float32)
    return values.reshape(-1, 256)


def _six_bit_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Eight 6-bit scales and eight 6-bit minima from 12 bytes, uint8 [n, 12] -> [n, 8], [n, 8]."""
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 0x3F, (third & _LOW) | ((first >> 6) << _FOUR)], axis=1)
    minima = np.concatenate([second & 0x3F, (third >> _FOUR) | ((second >> 6) << _FOUR)], axis=1)
    return scales, minima


def _nibble_rows(packed: Bytes) -> Bytes:
    """uint8 [n, 128] -> [n, 8, 32]: rows 2j and 2j+1 are the low and the high halves of bytes 32j to 32j+31."""
    shifts = np.array([0, 4], dtype=np.uint8).reshape(1, 1, 2, 1)
    return ((packed.reshape(-1, 4, 1, 32) >> shifts) & _LOW).reshape(-1, 8, 32)


def _scaled(blocks: Bytes, quants: Bytes) -> Floats:
    """What Q4_K and Q5_K share: d * scale * q - dmin * minimum over 8 groups of 32; quants [n, 8, 32]."""
    scales, minima = _six_bit_scales(blocks[:, 4:16])
    group_scale = _half(blocks, 0) * scales.astype(np.float32)
    group_minimum = _half(blocks, 2) * minima.astype(np.float32)
    values = group_scale[:, :, None] * quants.astype(np.float32) - group_minimum[:, :, None]
    return values.reshape(-1, 256)


def dequantise_q4_k(blocks: Bytes) -> Floats:
    """Eight groups of 32 four-bit weights."""
    return _scaled(blocks, _nibble_rows(blocks[:, 16:144]))


def dequantise_q5_k(blocks: Bytes) -> Floats:
    """Eight groups of 32 five-bit weights; bit j of the mask bytes belongs to group j."""
    high = np.unpackbits(blocks[:, 16:48].reshape(-1, 1, 32), axis=1, bitorder="little")
    return _scaled(blocks, _nibble_rows(blocks[:, 48:176]) | (high << _FOUR))


def dequantise_q6_k(blocks: Bytes) -> Floats:
    """Each weight is d * scale * (q - 32); 16 groups of 16 six-bit weights with signed 8-bit scales."""
    shifts = np.array([0, 4], dtype=np.uint8).reshape(1, 1, 2, 1)
    low = (blocks[:, :128].reshape(-1, 2, 1, 64) >> shifts) & _LOW
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8).reshape(1, 1, 4, 1)
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & _THREE
    quants = (low.reshape(-1, 16, 16) | (high.reshape(-1, 16, 16) << _FOUR)).astype(np.int8) - np.int8(32)
    group_scale = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    values: Floats = group_scale[:, :, None] * quants.astype(np.float32)
    return values.reshape(-1, 256)


def dequantise_q8_k(blocks: Bytes) -> Floats:
    """Each weight is d * q with a float32 d (llama.cpp's intermediate type; its sums are not needed)."""
    scale: Floats = np.ascontiguousarray(blocks[:, :4]).view(np.float32)
    return scale * blocks[:, 4:260].view(np.int8).astype(np.float32)


DEQUANTISERS: dict[str, Callable[[Bytes], Floats]] = {
    "Q4_0": dequantise_q4_0,
    "Q4_1": dequantise_q4_1,
    "Q5_0": dequantise_q5_0,
    "Q5_1": dequantise_q5_1,
    "Q8_0": dequantise_q8_0,
    "Q2_K": dequantise_q2_k,
    "Q3_K": dequantise_q3_k,
    "Q4_K": dequantise_q4_k,
    "Q5_K": dequantise_q5_k,
    "Q6_K": dequantise_q6_k,
    "Q8_K": dequantise_q8_k,
}


def numbers_of(type_name: str, data: Bytes, shape: tuple[int, ...]) -> Floats:
    """The numbers of a stored tensor, float32 [shape]; `data` are its bytes in row order, uint8, of any shape.

    Raises:
        UnsupportedTypeError: there is no such GGUF type, or it is not read.

    """
    flat = np.ascontiguousarray(data).reshape(-1)
    if type_name == "BF16":
        return (flat.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(shape)
    if type_name in ("F32", "F16"):
        return flat.view("<f4" if type_name == "F32" else "<f2").astype(np.float32).reshape(shape)
    result = np.empty(math.prod(shape), dtype=np.float32)
    for start, numbers in pieces(type_name, flat):
        result[start : start + numbers.size] = numbers.reshape(-1)
    return result.reshape(shape)


def pieces(type_name: str, flat: Bytes) -> Iterator[tuple[int, Floats]]:
    """The numbers of a quantised tensor, some blocks at a time, each with the index of its first."""
    if type_name not in DEQUANTISERS:
        raise UnsupportedTypeError(f"the tensor type {type_name} is not supported yet")
    block, function = BY_NAME[type_name], DEQUANTISERS[type_name]
    blocks = flat.reshape(-1, block.bytes)
    step = max(1, _CHUNK_WEIGHTS // block.weights)
    for start in range(0, len(blocks), step):
        with np.errstate(all="ignore"):  # infinite scales in a broken file give NaN, which `check` reports
            numbers = function(blocks[start : start + step])
        yield start * block.weights, numbers
