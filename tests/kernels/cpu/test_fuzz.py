"""Nothing a caller can say crashes the process, and the sanitizers find nothing in what it says rightly."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fathom.kernels.cpu import build, training
from fathom.kernels.cpu.library import best_variant

SCRIPT = Path(__file__).parent / "fuzz_steps.py"
SHARED = ("-shared", str(build.SOURCES / "training.cpp"))


def sanitizer(*compilers: str) -> tuple[str, str]:
    """The first compiler that has the address sanitizer's shared runtime, which must be loaded before Python's own
    memory is, and that runtime; skips the test where there is none.
    """
    names = [f"libclang_rt.asan-{machine}.so" for machine in ("x86_64", "aarch64")] + ["libasan.so"]
    for compiler in filter(None, map(shutil.which, compilers)):
        for name in names:
            found = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
            if Path(path := found.stdout.strip()).is_file():
                return compiler, path
    pytest.skip(f"needs one of {', '.join(compilers)} with its sanitizer runtime (Debian: clang, libclang-rt-dev)")


def sanitized(command: list[str], runtime: str) -> subprocess.CompletedProcess[str]:
    """What a Python command gives with the runtime in place; the test fails with what the sanitizers say."""
    options = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1", "LD_PRELOAD": runtime}
    command = [sys.executable, *command]
    result = subprocess.run(command, env=os.environ | options, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[:6000]
    return result


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
    compiler, runtime = sanitizer("clang++", "g++")
    (library,) = build.build(tmp_path, [variant], sanitize=True, cxx=compiler)
    result = sanitized([str(SCRIPT), str(library), "30", "7"], runtime)
    assert int(result.stdout.split()[0]) > 25


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sanitizers_find_nothing_in_the_training_passes(tmp_path) -> None:
    compiler, runtime = sanitizer("g++")  # which brings the OpenMP that PyTorch runs on
    library = tmp_path / "training.so"
    build.run([compiler, *training.flags(best_variant()), *build.SANITIZE_FLAGS, *SHARED, "-o", str(library)])
    result = sanitized([str(SCRIPT.with_name("sanitize_training.py")), str(library)], runtime)
    assert "100%" in result.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_threads_do_not_race(tmp_path) -> None:
    compiler, _ = sanitizer("clang++", "g++")
    files = [build.SOURCES / f"{file}.cpp" for file in build.FILES if file != "interface"]
    flags = ["-std=c++20", "-O1", "-g", "-pthread", "-fsanitize=thread", f"-I{build.SOURCES}"]
    program = tmp_path / "races"
    subprocess.run(
        [compiler, *flags, str(SCRIPT.with_name("races.cpp")), *map(str, files), "-o", str(program)], check=True
    )
    # The thread sanitizer of clang 14 cannot place its shadow memory where addresses are drawn from 32 random bits.
    fixed = ["setarch", platform.machine(), "-R"] if shutil.which("setarch") else []
    result = subprocess.run([*fixed, str(program)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[:6000]
    assert result.stdout == "done\n"
