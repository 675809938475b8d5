"""The native passes of a training step (`src/training.cpp`): compiled at first use, called on tensors.

They run on PyTorch's own OpenMP threads (the same libgomp), so `torch.set_num_threads` holds for them. Their readable
twins are in `fathom/kernels/passes.py`, which falls back to them where there is no compiler.
"""

import ctypes
import functools
import hashlib
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from fathom.kernels.cpu import build
from fathom.kernels.cpu.build import CompilerError
from fathom.kernels.cpu.library import best_variant

TYPES = {torch.float32: 0, torch.bfloat16: 1}
# What the passes may assume: nobody reads errno or floating-point exceptions.
_FLAGS = ("-fopenmp", "-fno-math-errno", "-fno-trapping-math")
_INT, _LONG, _FLOAT, _POINTER = ctypes.c_int, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
_SIGNATURES: dict[str, tuple[object, ...]] = {
    "rms_norm": (_INT, *[_POINTER] * 3, _LONG, _LONG, _FLOAT),
    "rms_norm_backward": (_INT, *[_POINTER] * 5, _LONG, _LONG, _FLOAT),
    "swiglu": (_INT, *[_POINTER] * 2, _LONG, _LONG),
    "swiglu_backward": (_INT, *[_POINTER] * 6, _LONG, _LONG),
    "gather": (_INT, *[_POINTER] * 3, _LONG, _LONG),
    "weighted_sum": (_INT, *[_POINTER] * 4, _LONG, _LONG, _LONG),
    "cross_entropy": (_INT, *[_POINTER] * 3, _LONG, _LONG),
    "causal_softmax": (_INT, _POINTER, _LONG, _LONG, _FLOAT),
    "causal_softmax_backward": (_INT, *[_POINTER] * 2, _LONG, _LONG, _FLOAT),
    "rotate_pairs": (_INT, *[_POINTER] * 4, *[_LONG] * 5, _FLOAT),
    "adamw": (_INT, *[_POINTER] * 4, _LONG, *[_FLOAT] * 7),
}


class TrainingLibrary:
    """`call(name, type of the values, ...)`: tensors are passed by address and must be contiguous."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        self._functions = {name: getattr(library, f"fathom_{name}") for name in _SIGNATURES}
        for name, arguments in _SIGNATURES.items():
            self._functions[name].restype, self._functions[name].argtypes = None, arguments

    def call(self, name: str, dtype: torch.dtype, *arguments: Tensor | float | None) -> None:
        """Run a pass in place of its twin."""
        values = [one.data_ptr() if isinstance(one, Tensor) else one for one in arguments]
        self._functions[name](TYPES[dtype], *values)


@functools.cache
def training_library() -> TrainingLibrary | None:
    """The library for this machine; None where it cannot be compiled or `FATHOM_TRAINING_KERNELS=torch` forbids it."""
    if os.environ.get("FATHOM_TRAINING_KERNELS") == "torch":
        return None
    try:
        return TrainingLibrary(_built(best_variant()))
    except (CompilerError, OSError):
        return None


def library_for(*tensors: Tensor) -> TrainingLibrary | None:
    """The library, if these tensors are what it takes: on the CPU, contiguous, float32 or bfloat16."""
    if all(one.device.type == "cpu" and one.dtype in TYPES and one.is_contiguous() for one in tensors):
        return training_library()
    return None


def flags(variant: str) -> tuple[str, ...]:
    """What the compiler is told for a variant."""
    return (*build.COMMON_FLAGS, *build.WARNING_FLAGS, *build.VARIANT_FLAGS[variant], *_FLAGS)


def _built(variant: str) -> Path:
    source = build.SOURCES / "training.cpp"
    digest = hashlib.sha256(repr(flags(variant)).encode() + source.read_bytes()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fathom" / "kernels"
    target = folder / f"libfathom_training_{variant}-{digest}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            partial = Path(scratch) / target.name
            build.run([build.compiler(), *flags(variant), "-shared", str(source), "-o", str(partial)])
            partial.replace(target)
    return target
