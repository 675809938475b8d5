"""Packages fetched by the ordinary clients of their registries, and unpacked without running anything in them."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Literal

from fathom.data.errors import DataError

Manager = Literal["pip", "npm", "apt"]
TIMEOUT_SECONDS = 600
_LICENCE_FILES = ("*.dist-info/**/LICEN*", "*.dist-info/**/COPYING*", "package/LICEN*", "usr/share/doc/*/copyright")


class PackageError(DataError):
    """A package that could not be had; the message says why."""


def fetch(manager: Manager, name: str, version: str | None, folder: Path) -> Path:
    """Download a package into `folder` and return its archive; one that is there already is not fetched again."""
    folder.mkdir(parents=True, exist_ok=True)
    if (found := _archive(manager, name, version, folder)) is not None:
        return found
    pinned = {"pip": f"{name}=={version}", "npm": f"{name}@{version}"}.get(manager, name) if version else name
    commands = {
        "pip": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", pinned],
        "npm": ["npm", "pack", "--silent", "--ignore-scripts", pinned],
        "apt": ["apt-get", "download", pinned],
    }
    _run(commands[manager], folder)
    found = _archive(manager, name, version, folder)
    if found is None:
        raise PackageError(f"{manager} said it fetched {pinned}, but no archive of that name is there")
    return found


def _archive(manager: Manager, name: str, version: str | None, folder: Path) -> Path | None:
    stem = {"pip": re.sub(r"[-_.]+", "_", name), "npm": name.removeprefix("@").replace("/", "-"), "apt": name}[manager]
    separator = "_" if manager == "apt" else "-"
    suffix = {"pip": "-*.whl", "npm": ".tgz", "apt": "_*.deb"}[manager]
    return next(iter(sorted(folder.glob(f"{stem}{separator}{version or '*'}{suffix}"))), None)


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise PackageError(f"{command[0]} is not on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise PackageError(f"{command[0]} took more than {TIMEOUT_SECONDS} seconds") from error
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip() and "WARNING" not in line]
        raise PackageError(f"{' '.join(command[:3])}: {lines[-1].strip() if lines else f'exit {done.returncode}'}")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a wheel, an npm tarball or a Debian package; nothing lands outside `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)  # refuses absolute names and drops ".."
    elif archive.suffix == ".tgz":
        with tarfile.open(archive) as tarball:
            tarball.extractall(folder, filter="data")
    else:
        _run(["dpkg-deb", "-x", str(archive), str(folder)], folder)


def copy_licences(unpacked: Path, target: Path) -> list[str]:
    """Copy a package's licence files into `target`; returns their names there."""
    files = sorted({file for pattern in _LICENCE_FILES for file in unpacked.glob(pattern) if file.is_file()})
    for number, file in enumerate(files):
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / f"{number}-{file.name}.txt")
    return [f"{number}-{file.name}.txt" for number, file in enumerate(files)]
