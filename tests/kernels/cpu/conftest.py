"""The variants that this machine can run, and stored weights of every type."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from fathom.kernels.cpu import build, library
from fathom.kernels.cpu.build import CompilerError

# Of a stored block: columns, bytes, and where its float16 scales lie (ggml-common.h).
BLOCKS = {
    "Q4_0": (32, 18, (0,)),
    "Q4_1": (32, 20, (0, 2)),
    "Q5_0": (32, 22, (0,)),
    "Q5_1": (32, 24, (0, 2)),
    "Q8_0": (32, 34, (0,)),
    "Q2_K": (256, 84, (80, 82)),
    "Q3_K": (256, 110, (108,)),
    "Q4_K": (256, 144, (0, 2)),
    "Q5_K": (256, 176, (0, 2)),
    "Q6_K": (256, 210, (208,)),
}


def runnable() -> list[str]:
    """Variants are listed from the plainest to the most demanding; a machine runs all up to its best."""
    try:
        best = library.best_variant()
    except CompilerError:
        return []
    names = build.variants()
    return list(names[: names.index(best) + 1])


@pytest.fixture(
    scope="session", params=runnable() or [pytest.param("none", marks=pytest.mark.skip(reason="no compiler"))]
)
def native(request) -> library.Library:
    return library.load(request.param)


@pytest.fixture(scope="session")
def random_weights():
    """(type, rows, columns, seed) -> stored bytes [rows, bytes], values [rows, columns] by the gguf package."""

    def make(type_: str, rows: int, columns: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(seed)
        if type_ not in BLOCKS:
            values = random.standard_normal((rows, columns)).astype(np.float32)
            return _floats(type_, values)
        width, size, scales = BLOCKS[type_]
        stored = random.integers(0, 256, (rows, columns // width, size), dtype=np.uint8)
        for at in scales:
            numbers = (random.standard_normal((rows, columns // width, 1)) * 0.01).astype(np.float16)
            stored[:, :, at : at + 2] = numbers.view(np.uint8)
        stored = stored.reshape(rows, -1)
        return stored, dequantize(stored, GGMLQuantizationType[type_]).reshape(rows, columns)

    return make


def _floats(type_: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if type_ == "F32":
        return values.view(np.uint8), values
    if type_ == "F16":
        return values.astype(np.float16).view(np.uint8), values.astype(np.float16).astype(np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    return bits.view(np.uint8), (bits.astype(np.uint32) << 16).view(np.float32)
