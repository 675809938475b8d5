"""Compiles `src/` into one shared object per instruction set. Needs only a C++20 compiler: no torch, no build system.

Run by the package's build (`hatch_build.py`), and by `library.load` when a checkout has no current build.
Imports nothing of Fathom, because the build hook loads it from its path.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).parent / "src"
FILES = (
    *("packing", "dot", "attention", "model", "interface"),
    *("step", "grouped", "latent", "over_pages", "experts"),
)
COMMON_FLAGS = ("-std=c++20", "-O3", "-ffp-contract=off", "-fPIC", "-pthread", "-fvisibility=hidden")
# GCC 12 warns about its own headers (undefined __m512 sources), hence the -Wno flags.
WARNING_FLAGS = ("-Wall", "-Wextra", "-Wno-maybe-uninitialized", "-Wno-uninitialized", "-Wno-array-bounds")
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-DFATHOM_AVX512")
_VNNI_BF16 = (*_AVX512, "-mavx512vnni", "-mavx512bf16", "-DFATHOM_VNNI")
VARIANT_FLAGS: dict[str, tuple[str, ...]] = {
    "portable": (),
    "avx2": (*_AVX2, "-DFATHOM_AVX2"),
    "avx512": _AVX512,
    "avx512_vnni_bf16": _VNNI_BF16,
    "avx512_amx": (*_VNNI_BF16, "-mamx-tile", "-mamx-int8", "-mamx-bf16", "-DFATHOM_AMX"),
}
# Conversions of floats that no integer holds are not among GCC's undefined ones by default.
SANITIZE_FLAGS = (
    *("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"),
    *("-fno-omit-frame-pointer", "-O1"),
)


class CompilerError(RuntimeError):
    """No compiler, or it failed: the message says which and what it printed."""


def variants() -> tuple[str, ...]:
    """The variants that this kind of machine can be given, the plainest first."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return tuple(name for name in VARIANT_FLAGS if name != "avx512_amx" or platform.system() == "Linux")
    return ("portable",)


@functools.cache
def fingerprint() -> str:
    """Of the sources and flags: a build with another fingerprint is stale."""
    digest = hashlib.sha256(repr((FILES, COMMON_FLAGS, VARIANT_FLAGS)).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def library_name(variant: str) -> str:
    """The file name of a variant's current build."""
    return f"libfathom_{variant}-{fingerprint()}.so"


def compiler() -> str:
    """The C++ compiler: $CXX, else g++, clang++ or c++."""
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        if name and (path := shutil.which(name)):
            return path
    raise CompilerError("no C++ compiler found: install g++ or clang++ (or set CXX) for the fast CPU kernels")


def build(
    folder: Path, names: Sequence[str] | None = None, *, sanitize: bool = False, cxx: str | None = None
) -> list[Path]:
    """Compiles the named variants (default: all of this machine's) into `folder`; returns the shared objects.

    Compilers run in parallel, one a core; each library appears whole or not at all. Raises `CompilerError`.
    """
    names = variants() if names is None else names
    cxx = cxx or compiler()
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(name, file) for name in names for file in _files(name)]
    with (
        tempfile.TemporaryDirectory(dir=folder) as scratch,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        paths = [Path(scratch) / f"{name}-{file}.o" for name, file in jobs]
        commands = [
            [cxx, *_flags(name, sanitize), "-c", str(SOURCES / f"{file}.cpp"), "-o", str(path)]
            for (name, file), path in zip(jobs, paths, strict=True)
        ]
        list(pool.map(run, commands))
        objects = dict(zip(jobs, paths, strict=True))
        return [_link(cxx, name, [objects[name, file] for file in _files(name)], folder, sanitize) for name in names]


def _files(variant: str) -> tuple[str, ...]:
    return (*FILES, "features") if variant == "portable" else FILES


def _flags(variant: str, sanitize: bool) -> tuple[str, ...]:
    return (*COMMON_FLAGS, *WARNING_FLAGS, *VARIANT_FLAGS[variant], *(SANITIZE_FLAGS if sanitize else ()))


def _link(cxx: str, variant: str, objects: Sequence[Path], folder: Path, sanitize: bool) -> Path:
    target = folder / library_name(variant)
    partial = objects[0].with_suffix(".so")
    run([cxx, *_flags(variant, sanitize), "-shared", *map(str, objects), "-o", str(partial)])
    partial.replace(target)
    return target


def run(command: list[str]) -> None:
    """Run a compiler; raises `CompilerError` with what it printed."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise CompilerError(f"{' '.join(command)} failed:\n{result.stderr[-4000:]}")
