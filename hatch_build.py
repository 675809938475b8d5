"""Hatchling build hook: compiles the CPU kernels into the wheel (or, for an editable install, into the source tree).

Without a compiler the package is built without them, says so, and runs on PyTorch.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_KERNELS = Path(__file__).parent / "fathom" / "kernels" / "cpu"


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds `fathom/kernels/cpu/lib/*.so` to the build and tags the wheel for this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files; `version` is "standard" or "editable"."""
        if self.target_name != "wheel":
            return
        if version != "editable":  # a checkout has them beside the package
            build_data["force_include"] |= {
                "recipes": "fathom/recipes",
                "models": "fathom/released",
            }
        build = _build_module()
        folder = _KERNELS / "lib"
        for stale in folder.glob("libfathom_*.so"):
            if build.fingerprint() not in stale.name:
                stale.unlink()
        missing = [name for name in build.variants() if not (folder / build.library_name(name)).exists()]
        for name in missing:
            try:
                build.build(folder, [name])
            except build.CompilerError as error:  # an old compiler may lack the newest instructions only
                self.app.display_warning(f"built without the {name} kernels: {error}")
        if not any(folder.glob("libfathom_*.so")):
            self.app.display_warning("no native CPU kernels could be built: PyTorch will serve")
            return
        build_data["artifacts"].append("fathom/kernels/cpu/lib/*.so")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform_tag()}"


def _build_module() -> ModuleType:
    """`fathom/kernels/cpu/build.py`, loaded from its path: importing `fathom` would need its dependencies."""
    spec = importlib.util.spec_from_file_location("fathom_kernel_build", _KERNELS / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _platform_tag() -> str:
    """Of this machine: the libraries are loaded with ctypes, so no Python version is part of it."""
    from packaging.tags import platform_tags

    return next(iter(platform_tags()))
