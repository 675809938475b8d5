"""Checkpoints: safetensors folders and GGUF files behind one face, where they come from, and how they are written."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fathom.checkpoints.checkpoint import Checkpoint as Checkpoint
    from fathom.checkpoints.checkpoint import StoredTensor as StoredTensor
    from fathom.checkpoints.checkpoint import TensorInfo as TensorInfo
    from fathom.checkpoints.checkpoint import check_finite as check_finite
    from fathom.checkpoints.errors import CheckpointError as CheckpointError
    from fathom.checkpoints.export import export as export
    from fathom.checkpoints.hub import pull as pull
    from fathom.checkpoints.loading import load_model as load_model
    from fathom.checkpoints.opening import open_checkpoint as open_checkpoint
    from fathom.checkpoints.saving import save_model as save_model
    from fathom.checkpoints.sources import home as home
    from fathom.checkpoints.sources import installed as installed
    from fathom.checkpoints.sources import remove as remove
    from fathom.checkpoints.sources import resolve as resolve

_HOMES = {
    "Checkpoint": "checkpoint",
    "StoredTensor": "checkpoint",
    "TensorInfo": "checkpoint",
    "check_finite": "checkpoint",
    "CheckpointError": "errors",
    "export": "export",
    "pull": "hub",
    "load_model": "loading",
    "open_checkpoint": "opening",
    "save_model": "saving",
    "home": "sources",
    "installed": "sources",
    "remove": "sources",
    "resolve": "sources",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import on first use (PEP 562): listing models or finding a file should not cost an import of torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fathom.checkpoints' has no attribute {name!r}")
    return getattr(import_module(f"fathom.checkpoints.{_HOMES[name]}"), name)
