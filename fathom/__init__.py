"""Fathom: DeepSeek, open end to end. `fathom.load(REF)` gives an engine; importing it costs no torch import."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fathom.engine.engine import Engine as Engine
    from fathom.engine.loading import load as load

__version__ = "0.1.0"
__all__ = ["Engine", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the engine on first use, so that `import fathom` stays cheap (PEP 562)."""
    if name == "load":
        from fathom.engine.loading import load

        return load
    if name == "Engine":
        from fathom.engine.engine import Engine

        return Engine
    raise AttributeError(f"module 'fathom' has no attribute {name!r}")
