"""Products with weights as stored, against the gguf package's values and plain numpy."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fathom.kernels.cpu.library import NativeError
from fathom.kernels.cpu.model import TYPES, dequantise, product

FLOATS = ("F32", "F16", "BF16")
SUPER = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


def quantised(x_MK: np.ndarray) -> np.ndarray:
    """What int8 codes in groups of 32 keep of x; float32 arithmetic as in the kernels."""
    groups = x_MK.reshape(len(x_MK), -1, 32)
    largest = np.abs(groups).max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        inverse = np.where(largest > 0, np.float32(127) / largest, np.float32(0)).astype(np.float32)
    codes = np.rint(groups * inverse)
    return (codes.astype(np.float64) * (largest / np.float32(127))).reshape(x_MK.shape)


def bfloat16(x: np.ndarray) -> np.ndarray:
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


def seen(type_: str, x_MK: np.ndarray) -> np.ndarray:
    """The activations as the kernels of this weight type see them."""
    return bfloat16(x_MK) if type_ == "BF16" else x_MK if type_ in FLOATS else quantised(x_MK)


@pytest.mark.parametrize("type_", TYPES)
def test_values_survive_the_packing(native, random_weights, type_) -> None:
    for rows, columns in ((1, 256), (17, 512), (48, 768)):
        stored, values = random_weights(type_, rows, columns, rows)
        np.testing.assert_allclose(dequantise(type_, (rows, columns), stored, native), values, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("type_", TYPES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 70), groups=st.integers(1, 24), m=st.integers(1, 19), seed=st.integers(0, 2**32))
def test_product_is_that_of_the_stored_values(native, random_weights, type_, rows, groups, m, seed) -> None:
    columns = 256 * (groups % 4 + 1) if type_ in SUPER else 32 * groups
    stored, values = random_weights(type_, rows, columns, seed)
    x = np.random.default_rng(seed).standard_normal((m, columns)).astype(np.float32) * np.float32(3)
    x[0, :32] = 0  # a group without a largest value
    got = product(type_, (rows, columns), stored, x, native)
    used = seen(type_, x)
    expected = used.astype(np.float64) @ values.astype(np.float64).T
    rounding = np.abs(used).astype(np.float64) @ np.abs(values).astype(np.float64).T
    if type_ not in FLOATS:  # scale * code and the minimum are summed apart, so their rounding does not cancel
        rounding += np.abs(used).sum(-1, keepdims=True) * np.abs(values).max(-1)
    assert (np.abs(got - expected) <= 3e-6 * rounding + 1e-6).all()


@pytest.mark.parametrize("type_", TYPES)
def test_int8_activations_cost_less_than_one_part_in_a_hundred(native, random_weights, type_) -> None:
    stored, values = random_weights(type_, 64, 1024, 5)
    x = np.random.default_rng(6).standard_normal((8, 1024)).astype(np.float32)
    expected = x @ values.T
    error = np.linalg.norm(product(type_, (64, 1024), stored, x, native) - expected) / np.linalg.norm(expected)
    assert error < (1e-6 if type_ in ("F32", "F16") else 0.01)


@pytest.mark.parametrize("type_", TYPES)
def test_a_row_does_not_depend_on_its_batch(native, random_weights, type_) -> None:
    stored, _ = random_weights(type_, 33, 512, 1)
    x = (
        np.random.default_rng(2).standard_normal((157, 512)).astype(np.float32)
    )  # 64, 64, 16, 8, 4 and 1, where tiles are
    whole = product(type_, (33, 512), stored, x, native)
    alone = np.concatenate([product(type_, (33, 512), stored, row[None], native) for row in x])
    np.testing.assert_array_equal(whole, alone)


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_hidden(native, random_weights, type_, odd) -> None:
    stored, _ = random_weights(type_, 20, 256, 1)
    x = np.ones((3, 256), np.float32)
    x[1, 77] = odd
    got = product(type_, (20, 256), stored, x, native)
    assert not np.isfinite(got[1]).any()
    assert np.isfinite(got[[0, 2]]).all()


@pytest.mark.parametrize("type_", FLOATS)
def test_columns_that_fill_no_group(native, random_weights, type_) -> None:
    stored, values = random_weights(type_, 5, 50, 3)
    x = np.random.default_rng(4).standard_normal((3, 50)).astype(np.float32)
    np.testing.assert_allclose(product(type_, (5, 50), stored, x, native), seen(type_, x) @ values.T, atol=1e-4)


def test_wrong_sizes_are_refused(native, random_weights) -> None:
    stored, _ = random_weights("Q4_1", 4, 64, 0)
    x = np.zeros((1, 64), np.float32)
    with pytest.raises(NativeError, match="bytes do not fit"):
        product("Q4_1", (5, 64), stored, x, native)
    with pytest.raises(NativeError, match="bytes do not fit"):
        product("Q6_K", (4, 64), stored, x, native)
    with pytest.raises(NativeError, match="do not fit a matrix"):
        product("Q4_1", (4, 32), stored, x, native)
