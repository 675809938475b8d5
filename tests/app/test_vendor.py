"""Re-vendoring: what is fetched must be what is pinned. npm is replaced by a script that packs local files."""

import hashlib
import json
import stat
import tarfile
from pathlib import Path

import pytest

from fathom.app.vendor import VendorError, vendor, verify


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    source = tmp_path / "package"
    source.mkdir()
    (source / "lib.js").write_text("export const answer = 42;\n")
    archive = tmp_path / "lib.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, "package")
    digest = hashlib.sha512(archive.read_bytes()).hexdigest()
    tools = tmp_path / "bin"
    tools.mkdir()
    npm = tools / "npm"
    report = json.dumps([{"filename": "lib.tgz", "integrity": digest}])
    # npm pack --silent --json --pack-destination FOLDER NAME@VERSION
    npm.write_text(f"#!/bin/sh\ncp '{archive}' \"$5/lib.tgz\"\nprintf '%s' '{report}'\n")
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    path = tmp_path / "vendor" / "manifest.json"
    path.parent.mkdir()
    files = [{"from": "lib.js", "to": "lib/lib.js"}]
    path.write_text(json.dumps({"packages": [{"name": "lib", "version": "1.0.0", "licence": "MIT", "files": files}]}))
    return path


def test_pin_then_fetch_again(manifest: Path) -> None:
    vendor(manifest, pin=True)
    assert verify(manifest) == []
    (manifest.parent / "lib" / "lib.js").write_text("changed")
    (manifest.parent / "stray.js").write_text("")
    assert verify(manifest) == ["stray.js: not in the manifest", "lib/lib.js: differs from its pinned SHA-256"]
    (manifest.parent / "stray.js").unlink()
    vendor(manifest)
    assert verify(manifest) == []
    (manifest.parent / "lib" / "lib.js").unlink()
    assert verify(manifest) == ["lib/lib.js: missing"]


@pytest.mark.parametrize("key", ["integrity", "sha256"])
def test_a_package_that_differs_from_its_pin_is_refused(manifest: Path, key: str) -> None:
    vendor(manifest, pin=True)
    content = json.loads(manifest.read_text())
    package = content["packages"][0]
    (package if key == "integrity" else package["files"][0])[key] = "0" * 64
    manifest.write_text(json.dumps(content))
    (manifest.parent / "lib" / "lib.js").unlink()
    with pytest.raises(VendorError, match=f"{key} is .*pinned is 000"):
        vendor(manifest)
    assert not (manifest.parent / "lib" / "lib.js").exists()


def test_a_file_the_package_does_not_hold(manifest: Path) -> None:
    content = json.loads(manifest.read_text())
    content["packages"][0]["files"][0]["from"] = "nothing.js"
    manifest.write_text(json.dumps(content))
    with pytest.raises(VendorError, match=r"lib\.tgz holds no file package/nothing\.js"):
        vendor(manifest, pin=True)
