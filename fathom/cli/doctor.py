"""`fathom doctor`: whether this machine has what Fathom needs, and what to do where it has not."""

import argparse
import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from fathom.cli.settings import resolve
from fathom.cli.terminal import answer, answer_json, human_bytes

DESCRIPTION = "Check Python, packages, memory, disk, the compiler, the accelerator and the default model."
EXAMPLE = "fathom doctor"
_PACKAGES = ("torch", "numpy", "safetensors", "tokenizers", "jinja2", "gguf", "fastapi", "uvicorn")
_MEMORY_NEEDED, _DISK_NEEDED = 2 * 2**30, 2**30


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at; `remedy` says what to do when it is not good."""

    name: str
    good: bool
    found: str
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing but the form."""
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print every check; 1 when one is not good."""
    checks = [*_python(), _memory(), _disk(), _compiler(), _accelerator(), _model(), _port()]
    good = all(check.good for check in checks)
    if arguments.json:
        entries = {one.name: {"good": one.good, "found": one.found, "remedy": one.remedy or None} for one in checks}
        answer_json({"good": good, "checks": entries})
        return 0 if good else 1
    for check in checks:
        answer(f"{'ok  ' if check.good else 'MISS'} {check.name:<13} {check.found}")
        if not check.good:
            answer(f"     {'':<13} -> {check.remedy}")
    return 0 if good else 1


def _python() -> list[Check]:
    version = platform.python_version()
    checks = [Check("python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer")]
    for name in _PACKAGES:
        try:
            checks.append(Check(name, True, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            checks.append(Check(name, False, "not installed", "make install"))
    return checks


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Check("memory", total >= _MEMORY_NEEDED, human_bytes(total), "the default model needs 2 GiB")


def _disk() -> Check:
    from fathom.checkpoints.sources import home

    folder = home()
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    writable = os.access(place, os.W_OK)
    found = f"{human_bytes(free)} free at {folder}{'' if writable else ', not writable'}"
    return Check(
        "disk", writable and free >= _DISK_NEEDED, found, "set FATHOM_HOME to a folder with room that you may write to"
    )


def _compiler() -> Check:
    found = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    return Check("compiler", True, found or "none: the plain PyTorch path is used, which is slower")


def _accelerator() -> Check:
    import torch

    if torch.cuda.is_available():
        return Check("accelerator", True, torch.cuda.get_device_name())
    return Check("accelerator", True, f"none; CPU with {os.cpu_count()} cores")


def _model() -> Check:
    from fathom.checkpoints.errors import CheckpointError
    from fathom.checkpoints.sources import resolve as path_of

    ref = resolve()["model"]
    try:
        path: Path = path_of(ref)
    except CheckpointError as error:
        return Check("model", False, ref, str(error))
    return Check("model", True, f"{ref} at {path}")


def _port() -> Check:
    from fathom.server.listen import bind

    settings = resolve()
    try:
        bind(settings["host"], settings["port"]).close()
    except OSError as error:
        remedy = "another server runs there: stop it, or use fathom serve --port 0"
        return Check("port", False, f"{settings['host']}:{settings['port']}: {error.strerror}", remedy)
    return Check("port", True, f"{settings['host']}:{settings['port']} is free")
