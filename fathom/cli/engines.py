"""Opening the model that a command talks to, and the flags that say which and how."""

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fathom.cli.settings import Settings
from fathom.cli.terminal import Progress

if TYPE_CHECKING:
    from fathom.engine import Engine

_FLAGS = (
    "model",
    "device",
    "dtype",
    "threads",
    "runner",
    "context",
    "cache_mib",
    "disk_cache_mib",
    "speculation",
    "dialect",
)


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """--model, and how to run it."""
    parser.add_argument(
        "--model", metavar="REF", help="smollm2:135m, ORG/NAME, a folder or a .gguf file (FATHOM_MODEL)"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], help="where to compute (FATHOM_DEVICE)")
    parser.add_argument("--dtype", help="number format, such as float32 or bfloat16 (FATHOM_DTYPE)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (FATHOM_THREADS)")
    parser.add_argument("--runner", choices=["auto", "native", "torch"], help="what computes (FATHOM_RUNNER)")
    parser.add_argument("--context", type=int, metavar="N", help="most tokens of one conversation (FATHOM_CONTEXT)")
    parser.add_argument("--cache-mib", type=int, metavar="N", help="memory for the cache (FATHOM_CACHE_MIB)")
    parser.add_argument(
        "--disk-cache-mib", type=int, metavar="N", help="disk for prefixes seen before; 0: none (FATHOM_DISK_CACHE_MIB)"
    )
    parser.add_argument(
        "--speculation",
        choices=["auto", "lookup", "off"],
        help="guess tokens ahead where it pays; answers stay the same (FATHOM_SPECULATION)",
    )
    parser.add_argument("--dialect", help="how conversations are written, such as chatml (FATHOM_DIALECT)")


def model_flags(arguments: argparse.Namespace) -> Mapping[str, object]:
    """What those flags say, None where they say nothing."""
    return {name: getattr(arguments, name) for name in _FLAGS}


def load_engine(settings: Settings, progress: "Callable[[str, float | None], None]") -> "Engine":
    """Load the model as the settings say."""
    from fathom.engine.loading import load

    return load(
        settings["model"],
        device=settings["device"],
        dtype=settings["dtype"],
        threads=settings["threads"],
        runner=settings["runner"],
        max_context=settings["context"] or None,
        cache_bytes=settings["cache_mib"] * 2**20 or None,
        dialect=settings["dialect"],
        speculation=settings["speculation"],
        disk_cache_bytes=settings["disk_cache_mib"] * 2**20,
        progress=progress,
    )


def open_engine(settings: Settings) -> "Engine":
    """Load the model, with progress on stderr."""
    progress = Progress()
    progress(f"loading {settings['model']}")
    try:
        return load_engine(settings, progress)
    finally:
        progress.done()
