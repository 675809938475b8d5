"""Every block type against the gguf package: bit patterns, quantised numbers, and our table of types."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.checkpoints.errors import UnsupportedTypeError
from fathom.checkpoints.gguf_tensors import PLAIN_DTYPES, dequantise
from fathom.checkpoints.gguf_types import BLOCK_TYPES, BY_NAME, DEQUANTISERS, UNREAD_TYPES, numbers_of

IN_PACKAGE = [name for name in DEQUANTISERS if name != "Q8_K"]


def theirs(data: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.dequantize(data, gguf.GGMLQuantizationType[name])


def test_the_table_of_types_is_the_packages():
    for number, block in BLOCK_TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (block.name, (block.weights, block.bytes))
    for number, name in UNREAD_TYPES.items():
        assert gguf.GGMLQuantizationType(number).name == name
    assert {kind.value for kind in gguf.GGMLQuantizationType} == BLOCK_TYPES.keys() | UNREAD_TYPES.keys()


@pytest.mark.parametrize("name", IN_PACKAGE)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5), columns=st.integers(1, 4))
def test_any_bits_give_the_packages_numbers(name, seed, rows, columns):
    block = BY_NAME[name]
    data = np.random.default_rng(seed).integers(0, 256, (rows, columns * block.bytes), dtype=np.uint8)
    ours = dequantise(name, data, (rows, columns * block.weights))
    np.testing.assert_array_equal(ours.numpy(), theirs(data, name))


@pytest.mark.parametrize("name", [*IN_PACKAGE, "F16", "BF16", "F32"])
@pytest.mark.parametrize("byte", [0x00, 0x55, 0xAA, 0xFF])
def test_extreme_bits(name, byte):
    block = BY_NAME[name]
    data = np.full((3, 8 * block.bytes), byte, dtype=np.uint8)
    ours = dequantise(name, data, (3, 8 * block.weights), torch.float32)
    expected = theirs(data, name).reshape(3, -1) if name != "F32" else data.view(np.float32)
    np.testing.assert_array_equal(ours.numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "F16"])
def test_quantised_numbers_come_back_close(name):
    numbers = np.random.default_rng(0).standard_normal((8, 512)).astype(np.float32)
    data = gguf.quantize(numbers, gguf.GGMLQuantizationType[name]).view(np.uint8)
    ours = dequantise(name, data, numbers.shape, torch.float32).numpy()
    bits = {"Q4_0": 4, "Q4_1": 4, "Q5_0": 5, "Q5_1": 5, "Q8_0": 8, "BF16": 8, "F16": 11}[name]
    assert np.abs(ours - numbers).max() < np.abs(numbers).max() * 2.0 ** (1 - bits)


def test_q8_k_follows_its_definition():
    """block_q8_K of ggml-common.h: float32 d, 256 int8, 16 int16 sums that dequantising does not need."""
    rng = np.random.default_rng(0)
    scales = rng.standard_normal((4, 1)).astype(np.float32)
    quants = rng.integers(-128, 128, (4, 256)).astype(np.int8)
    sums = rng.integers(-9, 9, (4, 16)).astype(np.int16)
    data = np.concatenate([scales.view(np.uint8), quants.view(np.uint8), sums.view(np.uint8)], axis=1)
    np.testing.assert_array_equal(dequantise("Q8_K", data, (4, 256)).numpy(), scales * quants)


@pytest.mark.parametrize("name", DEQUANTISERS)
def test_pieces_do_not_show(name):
    """More blocks than one piece holds, rounded straight to bfloat16, equal the whole rounded afterwards."""
    block = BY_NAME[name]
    count = (1 << 17) // block.weights + 3
    data = np.random.default_rng(0).integers(0, 256, (count, block.bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        whole = torch.from_numpy(DEQUANTISERS[name](data))
    ours = dequantise(name, data, (count, block.weights), torch.bfloat16)
    torch.testing.assert_close(ours, whole.bfloat16(), atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("name", PLAIN_DTYPES)
def test_plain_types_are_views_and_survive_misalignment(name):
    numbers = torch.arange(12, dtype=PLAIN_DTYPES[name]).view(3, 4)
    data = numbers.view(torch.uint8).numpy()
    assert dequantise(name, data, (3, 4)).data_ptr() == numbers.data_ptr()
    shifted = np.concatenate([np.zeros(1, np.uint8), data.reshape(-1)])[1:]
    assert torch.equal(dequantise(name, shifted, (3, 4)), numbers)


def test_an_unread_type_is_named():
    with pytest.raises(UnsupportedTypeError, match="IQ4_XS"):
        dequantise("IQ4_XS", np.zeros(136, np.uint8), (256,))


@pytest.mark.parametrize("name", [*DEQUANTISERS, *PLAIN_DTYPES])
def test_numbers_without_torch_are_the_same(name):
    block = BY_NAME[name]
    stored = np.random.default_rng(0).integers(0, 120, (700, block.bytes), dtype=np.uint8)
    numbers = numbers_of(name, stored, (7, 100 * block.weights))
    assert numbers.dtype == np.float32
    expected = dequantise(name, stored, (7, 100 * block.weights), torch.float32).numpy()
    np.testing.assert_array_equal(numbers, expected)
