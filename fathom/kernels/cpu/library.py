"""Finds or builds the shared object for this machine and declares its C functions (`src/interface.cpp`)."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

from fathom.kernels.cpu import build
from fathom.kernels.cpu.build import CompilerError

PACKAGED = Path(__file__).parent / "lib"


class NativeError(RuntimeError):
    """The native code refused its arguments; the message is its own."""


_INTEGERS = (
    *("layers", "predictions", "vocabulary", "hidden", "heads", "kv_heads", "head_size", "feed_forward"),
    *("max_context", "pages", "threads"),
    *("query_rank", "latent_rank", "nope_size", "rope_size", "value_size"),
    *("experts", "active_experts", "expert_width", "shared_width", "expert_groups", "kept_groups", "group_score"),
    *("sigmoid", "renormalise"),
)
_FLOATS = ("norm_epsilon", "latent_norm_epsilon", "attention_scale", "routed_scale")


class Config(ctypes.Structure):
    """`Config` of src/model.h, field by field; what is not given is zero."""

    _fields_ = (*((name, ctypes.c_int32) for name in _INTEGERS), *((name, ctypes.c_float) for name in _FLOATS))


_INT, _LONG, _POINTER = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "fathom_error": (ctypes.c_char_p, ()),
    "fathom_variant": (ctypes.c_char_p, ()),
    "fathom_model_new": (_INT, (ctypes.POINTER(Config), ctypes.POINTER(_POINTER))),
    "fathom_model_free": (None, (_POINTER,)),
    "fathom_model_page_bytes": (_LONG, (_POINTER,)),
    "fathom_model_page": (_INT, (_POINTER, _INT, ctypes.POINTER(_POINTER))),
    "fathom_model_matrix": (_INT, (_POINTER, _INT, _INT, _INT, _INT, _LONG, _LONG, _POINTER, _LONG)),
    "fathom_model_vector": (_INT, (_POINTER, _INT, _INT, _LONG, _POINTER)),
    "fathom_model_rotary": (_INT, (_POINTER, _LONG, _LONG, _POINTER, _POINTER)),
    "fathom_model_check": (_INT, (_POINTER,)),
    "fathom_adapter_set": (
        _INT,
        (_POINTER, _INT, _INT, _INT, _INT, _LONG, _LONG, _LONG, ctypes.c_float, _POINTER, _LONG, _POINTER, _LONG),
    ),
    "fathom_adapter_drop": (_INT, (_POINTER, _INT)),
    "fathom_model_step": (_INT, (_POINTER, _INT, _LONG, _POINTER, _POINTER, _LONG, _POINTER, _LONG, _POINTER, _LONG)),
    "fathom_product": (_INT, (_INT, _LONG, _LONG, _POINTER, _LONG, _POINTER, _LONG, _POINTER)),
    "fathom_dequantise": (_INT, (_INT, _LONG, _LONG, _POINTER, _LONG, _POINTER)),
}


class Library:
    """One loaded variant. `call(name, ...)` runs a function and raises `NativeError` with its message when it fails."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.functions = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self.functions, name)
            function.restype, function.argtypes = result, arguments
        self.variant: str = self.functions.fathom_variant().decode()

    def call(self, name: str, *arguments: object) -> None:
        """Calls a function that returns an error code."""
        if getattr(self.functions, name)(*arguments) != 0:
            raise NativeError(self.functions.fathom_error().decode())


@functools.cache
def load(variant: str | None = None) -> Library:
    """The library for this machine, or the named variant; built now if there is no current build.

    `FATHOM_KERNELS` names a variant too (for measuring). Raises `CompilerError` where nothing can be built.
    """
    variant = variant or os.environ.get("FATHOM_KERNELS") or best_variant()
    if variant not in build.variants():
        raise CompilerError(f"no variant {variant!r} for this machine; there are {', '.join(build.variants())}")
    return Library(_built(variant))


@functools.cache
def best_variant() -> str:
    """What this processor runs best, asked of the processor itself."""
    function = ctypes.CDLL(str(_built("portable"))).fathom_best_variant
    function.restype = ctypes.c_char_p
    name: str = function().decode()
    return name


def _built(variant: str) -> Path:
    """The current build in the package, else in the user's cache, where it is made if need be."""
    name = build.library_name(variant)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fathom" / "kernels"
    for folder in (PACKAGED, cache):
        if (folder / name).exists():
            return folder / name
    return build.build(cache, [variant])[0]
