"""The few array operations that choosing a token takes: of numpy where logits lie on the host, of PyTorch elsewhere.

The native runner gives numpy arrays, so an engine on it never imports PyTorch, whose import alone takes longer than the
rest of its start. Both have the same methods and operators for most of what is needed; here is what differs.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, cast

import numpy as np

Array = Any  # np.ndarray or torch.Tensor
Logits = Any
"""[rows, V] float32: a numpy array, or a tensor on the runner's device."""


class HostArrays:
    """Operations on numpy arrays."""

    def host(self, values: "np.ndarray[Any, Any]") -> Array:
        """A numpy array as one of these."""
        return values

    def best(self, x_BV: Array) -> tuple[Array, Array]:
        """The largest value of each row and where it stands; NaN wins."""
        index_B = x_BV.argmax(-1)
        return x_BV[np.arange(len(x_BV)), index_B], index_B

    def largest(self, x_BV: Array) -> Array:
        """The largest value of each row."""
        return x_BV.max(-1)

    def top(self, x_BV: Array, count: int) -> tuple[Array, Array]:
        """The `count` largest values of each row, in descending order, and where they stand."""
        rest = x_BV.shape[1] - count
        found_BK = np.argpartition(x_BV, min(rest, x_BV.shape[1] - 1), axis=-1)[:, rest:]
        values_BK = np.take_along_axis(x_BV, found_BK, axis=-1)
        order_BK = np.argsort(-values_BK, axis=-1, kind="stable")
        return np.take_along_axis(values_BK, order_BK, axis=-1), np.take_along_axis(found_BK, order_BK, axis=-1)

    @np.errstate(all="ignore")
    def log_softmax(self, x_BV: Array) -> Array:
        """Log probabilities of each row, float32."""
        shifted_BV = x_BV.astype(np.float32) - x_BV.max(-1, keepdims=True)
        return shifted_BV - np.log(np.exp(shifted_BV).sum(-1, keepdims=True))

    def exp(self, x: Array) -> Array:
        """In place."""
        return np.exp(x, out=x)

    def single(self, x: Array) -> Array:
        """As float32."""
        return x.astype(np.float32)

    def double(self, x: Array) -> Array:
        """As float64."""
        return x.astype(np.float64)

    def finite(self, x: Array) -> Array:
        """Which are neither infinite nor NaN."""
        return np.isfinite(x)

    def where(self, condition: Array, yes: Any, no: Any) -> Array:
        """Elements of one or the other."""
        return np.where(condition, yes, no)

    def copy(self, x: Array) -> Array:
        """The same numbers elsewhere."""
        return x.copy()

    def padded(self, x_BV: Array, zeros: int) -> Array:
        """Each row with zeros behind it."""
        return np.pad(x_BV, ((0, 0), (0, zeros)))

    def joined(self, parts: Sequence[Array]) -> Array:
        """Rows of one after rows of the other."""
        return np.concatenate(parts)


class TensorArrays:
    """The same on tensors of one device."""

    def __init__(self, torch: ModuleType, device: Any) -> None:
        self._torch: Any = torch
        self._device = device

    def host(self, values: "np.ndarray[Any, Any]") -> Array:
        """A numpy array as one of these: one transfer."""
        return self._torch.from_numpy(values).to(self._device)

    def best(self, x_BV: Array) -> tuple[Array, Array]:
        """The largest value of each row and where it stands; NaN wins."""
        return cast(tuple[Array, Array], tuple(x_BV.max(-1)))

    def largest(self, x_BV: Array) -> Array:
        """The largest value of each row."""
        return x_BV.amax(-1)

    def top(self, x_BV: Array, count: int) -> tuple[Array, Array]:
        """The `count` largest values of each row, in descending order, and where they stand."""
        return cast(tuple[Array, Array], tuple(x_BV.topk(count, -1)))

    def log_softmax(self, x_BV: Array) -> Array:
        """Log probabilities of each row, float32."""
        return x_BV.float().log_softmax(-1)

    def exp(self, x: Array) -> Array:
        """In place."""
        return x.exp_()

    def single(self, x: Array) -> Array:
        """As float32."""
        return x.float()

    def double(self, x: Array) -> Array:
        """As float64."""
        return x.double()

    def finite(self, x: Array) -> Array:
        """Which are neither infinite nor NaN."""
        return x.isfinite()

    def where(self, condition: Array, yes: Any, no: Any) -> Array:
        """Elements of one or the other."""
        return self._torch.where(condition, yes, no)

    def copy(self, x: Array) -> Array:
        """The same numbers elsewhere."""
        return x.clone()

    def padded(self, x_BV: Array, zeros: int) -> Array:
        """Each row with zeros behind it."""
        return self._torch.nn.functional.pad(x_BV, (0, zeros))

    def joined(self, parts: Sequence[Array]) -> Array:
        """Rows of one after rows of the other."""
        return self._torch.cat(parts)


_HOST = HostArrays()


def arrays_of(x: Array) -> HostArrays | TensorArrays:
    """The operations for whatever `x` is."""
    if isinstance(x, np.ndarray):
        return _HOST
    import torch

    return TensorArrays(torch, x.device)
