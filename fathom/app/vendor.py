"""Fetch the page's pinned JavaScript libraries again: `python -m fathom.app.vendor`.

`static/vendor/manifest.json` names each package, its version, licence and the files taken from it, with the SHA-512
of the package (npm's `integrity`) and the SHA-256 of each file. The packages come by `npm pack`, so no script of theirs
runs.

    python -m fathom.app.vendor                     # fetch, and refuse whatever differs from the pins
    python -m fathom.app.vendor --pin               # after changing a version in the manifest: fetch and pin anew
    python -m fathom.app.vendor --manifest tests/app/vendor/manifest.json
"""

import argparse
import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

MANIFEST = Path(__file__).parent / "static" / "vendor" / "manifest.json"


class VendorError(Exception):
    """A package or file is not what the manifest pins."""


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256, as pinned in the manifest."""
    return hashlib.sha256(data).hexdigest()


def verify(manifest: Path) -> list[str]:
    """What is wrong with the files beside `manifest` (missing, changed, not listed); empty when all is as pinned."""
    folder = manifest.parent
    pinned = {
        file["to"]: file["sha256"]
        for package in json.loads(manifest.read_text("utf-8"))["packages"]
        for file in package["files"]
    }
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path != manifest}
    problems = [f"{name}: missing" for name in sorted(pinned.keys() - present)]
    problems += [f"{name}: not in the manifest" for name in sorted(present - pinned.keys())]
    changed = [name for name in sorted(pinned.keys() & present) if sha256((folder / name).read_bytes()) != pinned[name]]
    return problems + [f"{name}: differs from its pinned SHA-256" for name in changed]


def vendor(manifest: Path, *, pin: bool = False) -> None:
    """Fetch every package of `manifest` and write its files; with `pin` record the hashes instead of checking them.

    Raises VendorError when a package or file differs from its pin; nothing of that package is written then.
    """
    content = json.loads(manifest.read_text("utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        for package in content["packages"]:
            _vendor_package(package, manifest.parent, Path(folder), pin=pin)
    if pin:
        manifest.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _vendor_package(package: dict[str, Any], target: Path, folder: Path, *, pin: bool) -> None:
    """Write the files of one package below `target`, or pin its hashes in place."""
    archive, integrity = _pack(f"{package['name']}@{package['version']}", folder)
    _check(package, "integrity", integrity, package["name"], pin=pin)
    contents = [_member(archive, f"package/{file['from']}") for file in package["files"]]
    for file, data in zip(package["files"], contents, strict=True):
        _check(file, "sha256", sha256(data), f"{package['name']}: {file['from']}", pin=pin)
    for file, data in zip(package["files"], contents, strict=True):
        path = target / file["to"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _pack(specification: str, folder: Path) -> tuple[Path, str]:
    """Download one package with npm; its archive and npm's integrity string."""
    command = ["npm", "pack", "--silent", "--json", "--pack-destination", str(folder), specification]
    try:
        result = subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise VendorError("npm is not installed; it is needed only to fetch the page's libraries again") from error
    except subprocess.CalledProcessError as error:
        raise VendorError(f"npm could not fetch {specification}: {error.stderr.strip()}") from error
    report = json.loads(result.stdout)
    entry = report[0] if isinstance(report, list) else next(iter(report.values()))
    return folder / entry["filename"], entry["integrity"]


def _member(archive: Path, name: str) -> bytes:
    """The bytes of one plain file inside an npm archive."""
    with tarfile.open(archive) as tar:
        try:
            stream = tar.extractfile(name)
        except KeyError:
            stream = None
        if stream is None:
            raise VendorError(f"{archive.name} holds no file {name}")
        return stream.read()


def _check(entry: dict[str, Any], key: str, value: str, what: str, *, pin: bool) -> None:
    """Record `value` under `key`, or raise when it is not the one recorded."""
    if pin:
        entry[key] = value
    elif entry.get(key) != value:
        raise VendorError(f"{what}: {key} is {value}, pinned is {entry.get(key)}; --pin accepts it")


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m fathom.app.vendor", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--manifest", type=Path, default=MANIFEST, help="which manifest (default: the page's own)")
    parser.add_argument("--pin", action="store_true", help="record the hashes of what is fetched")
    arguments = parser.parse_args()
    vendor(arguments.manifest, pin=arguments.pin)
    print(f"{arguments.manifest}: every file is as pinned")


if __name__ == "__main__":
    main()
