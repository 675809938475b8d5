"""A model in native memory: weights set one by one by role, then whole steps in single calls that release the GIL."""

from __future__ import annotations

import array
import ctypes
import enum
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fathom.kernels.cpu.library import Config, Library, NativeError, load

# GGML's numbers of the tensor types that the kernels run as stored (src/formats.h).
TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8,
    "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "BF16": 30,
}  # fmt: skip

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


Matrix = enum.IntEnum(
    "Matrix",
    "EMBEDDING HEAD QUERY KEY VALUE OUTPUT QUERY_DOWN LATENT KEY_UP VALUE_UP GATE UP DOWN "
    "ROUTER EXPERT_GATE EXPERT_UP EXPERT_DOWN MERGE",
    start=0,
)
"""`MatrixRole` of src/model.h."""

Vector = enum.IntEnum(
    "Vector",
    "FINAL_NORM ATTENTION_NORM FEED_FORWARD_NORM QUERY_BIAS KEY_BIAS VALUE_BIAS OUTPUT_BIAS "
    "QUERY_NORM LATENT_NORM ROUTER_BIAS EMBEDDING_NORM HIDDEN_NORM HEAD_NORM",
    start=0,
)
"""`VectorRole` of src/model.h."""


class Part(Protocol):
    """A sequence's part of a step: what `fathom.engine.runner.SequenceStep` holds."""

    @property
    def tokens(self) -> Sequence[int]:
        """Ids to run now."""

    @property
    def start(self) -> int:
        """Tokens cached before."""

    @property
    def pages(self) -> Sequence[int]:
        """Page numbers in the order of positions."""

    @property
    def logits_from(self) -> int:
        """Logits are wanted for tokens[logits_from:]."""

    @property
    def adapter(self) -> int | None:
        """Number of the adapter to run with, if any."""


class NativeModel:
    """Owns the native memory; `close` (or the end of the object) frees it. Not safe for two threads at once."""

    def __init__(self, config: Config, library: Library | None = None) -> None:
        self._library = library or load()
        self._handle = ctypes.c_void_p()
        self._library.call("fathom_model_new", ctypes.byref(config), ctypes.byref(self._handle))
        self.variant = self._library.variant
        self.build = self._library.path.name
        self.page_bytes: int = self._library.functions.fathom_model_page_bytes(self._handle)

    def set_matrix(
        self, role: Matrix, layer: int, type_: str, shape: tuple[int, int], stored: Bytes, *, part: int = 0
    ) -> None:
        """Takes a weight [rows, columns] in stored form; its bytes are copied into the kernels' order.

        `part`: which expert (or head, for the expansions of latent attention); the first comes first.
        """
        stored = np.ascontiguousarray(stored)
        self._call("fathom_model_matrix", layer, role, part, TYPES[type_], *shape, stored.ctypes.data, stored.nbytes)

    def set_vector(self, role: Vector, layer: int, values: Floats) -> None:
        """Takes a norm's weights or a bias, float32."""
        values = np.ascontiguousarray(values, dtype=np.float32)
        self._call("fathom_model_vector", layer, role, values.size, values.ctypes.data)

    def set_rotary(self, cosine: Floats, sine: Floats) -> None:
        """Takes cosines and sines [positions, rotary / 2], float32."""
        cosine, sine = (np.ascontiguousarray(table, dtype=np.float32) for table in (cosine, sine))
        if cosine.shape != sine.shape or cosine.ndim != 2:
            raise NativeError(f"cosines {cosine.shape} and sines {sine.shape} are not one table each")
        self._call("fathom_model_rotary", *cosine.shape, cosine.ctypes.data, sine.ctypes.data)

    def set_adapter(
        self, adapter: int, role: Matrix, layer: int, type_: str, scale: float, down: Bytes, up: Bytes, rank: int
    ) -> None:
        """Adds y += scale * up (down x) to a weight [rows, columns] for sequences that run with this adapter.

        `down` [rank, columns] and `up` [rows, rank] are BF16 or F32, as bytes a row; they overwrite those of before
        where they lie if rank and type are the same.
        """
        down, up = np.ascontiguousarray(down), np.ascontiguousarray(up)
        columns = down.shape[1] // (2 if type_ == "BF16" else 4)
        matrices = (down.ctypes.data, down.nbytes, up.ctypes.data, up.nbytes)
        self._call("fathom_adapter_set", adapter, layer, role, TYPES[type_], rank, len(up), columns, scale, *matrices)

    def drop_adapter(self, adapter: int) -> None:
        """Frees an adapter; harmless when there is none of this number."""
        self._call("fathom_adapter_drop", adapter)

    def check(self) -> None:
        """Raises `NativeError` naming a weight that is missing."""
        self._call("fathom_model_check")

    def step(self, parts: Sequence[Part], logits: Floats) -> None:
        """Runs the step; writes logits [rows, vocabulary] of the asked rows, in order. Raises `NativeError`."""
        self._run(-1, parts, [-1] * len(parts), logits)

    def predict(self, depth: int, parts: Sequence[Part], first_rows: Sequence[int], logits: Floats) -> None:
        """The same through a prediction module, for parts that begin at `first_rows` of the last step.

        A part's tokens are those that stand depth + 1 after its rows'. Module by module, each after the one before.
        """
        self._run(depth, parts, first_rows, logits)

    def _run(self, depth: int, parts: Sequence[Part], first_rows: Sequence[int], logits: Floats) -> None:
        if logits.dtype != np.float32 or not logits.flags.c_contiguous:
            raise NativeError("the logits must be contiguous float32")
        sizes, tokens, pages = array.array("i"), array.array("i"), array.array("i")
        for part, first_row in zip(parts, first_rows, strict=True):
            adapter = -1 if part.adapter is None else part.adapter
            sizes.extend((len(part.tokens), part.start, len(part.pages), part.logits_from, adapter, first_row))
            tokens.extend(part.tokens)
            pages.extend(part.pages)
        arrays = (sizes.buffer_info()[0], *tokens.buffer_info(), *pages.buffer_info(), logits.ctypes.data)
        self._call("fathom_model_step", depth, len(parts), *arrays, len(logits))

    def page(self, number: int) -> Bytes:
        """The bytes of one page of cache, all layers; a view that is valid until `close`."""
        address = ctypes.c_void_p()
        self._call("fathom_model_page", number, ctypes.byref(address))
        return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8)), (self.page_bytes,))

    def close(self) -> None:
        """Frees weights and cache; may be called twice."""
        if self._handle:
            self._library.functions.fathom_model_free(self._handle)
            self._handle = ctypes.c_void_p()

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            self.close()

    def _call(self, name: str, *arguments: object) -> None:
        if not self._handle:
            raise NativeError("the model is closed")
        self._library.call(name, self._handle, *arguments)


def product(type_: str, shape: tuple[int, int], stored: Bytes, x_MK: Floats, library: Library | None = None) -> Floats:
    """Return x times the transposed stored matrix, float32 [M, rows], as a step computes it."""
    stored, x_MK = np.ascontiguousarray(stored), np.ascontiguousarray(x_MK, dtype=np.float32)
    out = np.empty((len(x_MK), shape[0]), np.float32)
    if x_MK.ndim != 2 or x_MK.shape[1] != shape[1]:
        raise NativeError(f"activations {x_MK.shape} do not fit a matrix {shape}")
    weights = (TYPES[type_], *shape, stored.ctypes.data, stored.nbytes)
    (library or load()).call("fathom_product", *weights, x_MK.ctypes.data, len(x_MK), out.ctypes.data)
    return out


def dequantise(type_: str, shape: tuple[int, int], stored: Bytes, library: Library | None = None) -> Floats:
    """Return the values of a stored matrix, float32, read back from the order in which the kernels keep it."""
    stored, out = np.ascontiguousarray(stored), np.empty(shape, np.float32)
    weights = (TYPES[type_], *shape, stored.ctypes.data, stored.nbytes)
    (library or load()).call("fathom_dequantise", *weights, out.ctypes.data)
    return out
