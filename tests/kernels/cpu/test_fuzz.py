"""Nothing a caller can say crashes the process, and the sanitizers find nothing in what it says rightly."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fathom.kernels.cpu import build

SCRIPT = Path(__file__).parent / "fuzz_steps.py"


def sanitizer_runtime() -> str | None:
    """The shared address sanitizer runtime of clang, which must be loaded before Python's own memory is."""
    clang = shutil.which("clang")
    if clang is None:
        return None
    names = ("libclang_rt.asan-x86_64.so", "libclang_rt.asan-aarch64.so", "libclang_rt.asan.so")
    for name in names:
        found = subprocess.run([clang, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        if Path(path := found.stdout.strip()).is_file():
            return path
    return None


def test_random_models_and_steps(native) -> None:
    spec = importlib.util.spec_from_file_location("fuzz_steps", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    taken, refused = module.fuzz(native, 12, seed=1)
    assert taken > 5
    assert refused > 5


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("variant", build.variants())
def test_sanitizers_find_nothing(native, tmp_path, variant) -> None:
    if native.variant != variant:
        pytest.skip("runs once for each variant that this machine runs")
    runtime = sanitizer_runtime()
    if runtime is None:
        pytest.skip("needs clang++ and its sanitizer runtime (Debian: clang, libclang-rt-dev)")
    (library,) = build.build(tmp_path, [variant], sanitize=True, cxx=shutil.which("clang++"))
    options = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1", "LD_PRELOAD": runtime}
    command = [sys.executable, str(SCRIPT), str(library), "30", "7"]
    result = subprocess.run(command, env=os.environ | options, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[:6000]
    assert int(result.stdout.split()[0]) > 25


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_threads_do_not_race(tmp_path) -> None:
    clang = shutil.which("clang++")
    if clang is None or sanitizer_runtime() is None:
        pytest.skip("needs clang++ and its sanitizer runtime (Debian: clang, libclang-rt-dev)")
    files = [build.SOURCES / f"{file}.cpp" for file in build.FILES if file != "interface"]
    flags = ["-std=c++20", "-O1", "-g", "-pthread", "-fsanitize=thread", f"-I{build.SOURCES}"]
    program = tmp_path / "races"
    subprocess.run(
        [clang, *flags, str(SCRIPT.with_name("races.cpp")), *map(str, files), "-o", str(program)], check=True
    )
    # The thread sanitizer of clang 14 cannot place its shadow memory where addresses are drawn from 32 random bits.
    fixed = ["setarch", platform.machine(), "-R"] if shutil.which("setarch") else []
    result = subprocess.run([*fixed, str(program)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[:6000]
    assert result.stdout == "done\n"
