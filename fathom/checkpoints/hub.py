"""Fetching models from a hub (huggingface.co or HF_ENDPOINT): resumable, checksummed, nothing but data.

Plain HTTP with httpx: the answers are checked at every step, and a pulled model is files in a folder, not a cache.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from tqdm import tqdm  # type: ignore[import-untyped]

from fathom.checkpoints.checkpoint import SIDE_FILES
from fathom.checkpoints.errors import (
    AccessError,
    ChecksumError,
    DiskFullError,
    PickleRefusedError,
    SourceError,
    UnsafePathError,
)
from fathom.checkpoints.opening import PICKLE_SUFFIXES
from fathom.checkpoints.sources import (
    DEFAULT_REF,
    NANO_REF,
    RECORD,
    Repository,
    check_inside_models,
    choose_gguf,
    default_model,
    nano_model,
    parse_repository,
    record_of,
)
from fathom.checkpoints.writing import PART_SUFFIX, sync_folder, write_json

_PLAIN_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_INDEX = "model.safetensors.index.json"
_MAX_ANSWER_BYTES = 50_000_000
_MAX_FILES = 20_000
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository: its size and its checksum, sha256 for large files, git's blob sha1 for small ones."""

    path: str
    size: int
    sha256: str | None
    git_sha1: str


def pull(ref: str, *, attempts: int = 5, progress: bool | None = None) -> Path:
    """Fetch a model into FATHOM_HOME/models and return its path (what `resolve(ref)` gives from then on).

    Interrupted downloads go on where they stopped, also in a later call; every file is checked against the checksum
    the hub states. Only what a model needs is fetched: weights, configuration, tokenizer, template, licence.

    Args:
        ref: ORG/NAME[@revision][:file.gguf], or the default model (already on the machine).
        attempts: connections per file before giving up.
        progress: show a bar; by default where stderr is a terminal.

    Raises:
        SourceError: no such repository or file, or the hub cannot be reached.
        AccessError: gated or private; set HF_TOKEN.
        ChecksumError: a file is not what the hub says it is (twice in a row).
        PickleRefusedError: the repository has no safe weights.
        DiskFullError: no room.

    """
    if ref == DEFAULT_REF:
        return default_model(verify=True)
    if ref == NANO_REF:
        return nano_model()
    repository = parse_repository(ref)
    folder = check_inside_models(repository.folder)
    with _client() as client:
        commit = _commit(client, repository)
        files = choose_files(list(_files(client, repository, commit)), repository)
        folder.mkdir(parents=True, exist_ok=True)
        disable = None if progress is None else not progress
        with tqdm(total=sum(f.size for f in files), unit="B", unit_scale=True, desc=ref, disable=disable) as bar:
            for file in files:
                _fetch(client, repository, commit, file, folder, attempts, bar)
    _record(folder, repository, commit, files)
    ggufs = [file.path for file in files if file.path.endswith(".gguf")]
    return folder / min(ggufs) if repository.file is not None and ggufs else folder


def choose_files(files: list[HubFile], repository: Repository) -> list[HubFile]:
    """What to fetch: side files and either the safetensors or the one GGUF that was asked for.

    Raises:
        SourceError: no weights, or several GGUF files to choose from.
        PickleRefusedError: pickled weights only.

    """
    plain = [file for file in files if "/" not in file.path]  # subfolders hold other formats and other programs' files
    ggufs = [file.path for file in plain if file.path.endswith(".gguf")]
    tensors = [file.path for file in plain if file.path.endswith(".safetensors")]
    if repository.file is not None or not tensors:
        weights = _chosen_gguf(ggufs, repository, [file.path for file in plain])
    else:
        weights = tensors
    wanted = {*weights, *SIDE_FILES, "config.json"} | ({_INDEX} if weights == tensors else set())
    chosen = [file for file in plain if file.path in wanted]
    if weights == tensors and "config.json" not in {file.path for file in chosen}:
        raise SourceError(f"{repository.id} has weights but no config.json, so it is not a model Fathom can load")
    return sorted(chosen, key=lambda file: file.size)


def _chosen_gguf(ggufs: list[str], repository: Repository, names: list[str]) -> list[str]:
    chosen = choose_gguf(ggufs, repository.file or "")
    if chosen:
        return chosen
    if ggufs:
        raise SourceError(f"{repository.id}: choose one of its files, as {repository.id}:FILE — {', '.join(ggufs)}")
    pickles = [name for name in names if Path(name).suffix in PICKLE_SUFFIXES]
    if pickles and repository.file is None:
        raise PickleRefusedError(
            f"{repository.id} has only pickled weights ({', '.join(pickles[:4])}), which run code when loaded; "
            "look for a repository or revision with safetensors or GGUF files"
        )
    raise SourceError(f"{repository.id} holds no {repository.file or 'safetensors or GGUF files'}")


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT, else huggingface.co.

    Raises:
        SourceError: HF_ENDPOINT is not an http(s) address.

    """
    address = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    if urlsplit(address).scheme not in ("http", "https"):
        raise SourceError(f"HF_ENDPOINT is {address!r}, which is not an http or https address")
    return address


def _client() -> httpx.Client:
    token = os.environ.get("HF_TOKEN")
    headers = {"user-agent": "fathom"} | ({"authorization": f"Bearer {token}"} if token else {})
    # httpx drops the Authorization header when a redirect leads to another host.
    return httpx.Client(headers=headers, follow_redirects=True, timeout=httpx.Timeout(30.0, read=60.0))


def _commit(client: httpx.Client, repository: Repository) -> str:
    answer = _ask(client, f"{endpoint()}/api/models/{repository.id}/revision/{quote(repository.revision, safe='')}")
    commit = answer.get("sha") if isinstance(answer, dict) else None
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise SourceError(f"the hub's answer about {repository.id} names no commit")
    return commit


def _files(client: httpx.Client, repository: Repository, commit: str) -> Iterator[HubFile]:
    url: str | None = f"{endpoint()}/api/models/{repository.id}/tree/{commit}"
    seen = 0
    while url is not None:
        response = _get(client, url)
        rows = _json(response, url)
        if not isinstance(rows, list):
            raise SourceError(f"the hub's list of the files of {repository.id} is not a list")
        seen += len(rows)
        if seen > _MAX_FILES:
            raise SourceError(f"{repository.id} has more than {_MAX_FILES} files")
        yield from (_hub_file(row, repository) for row in rows if isinstance(row, dict) and row.get("type") == "file")
        url = response.links.get("next", {}).get("url")
        if url is not None and urlsplit(url).netloc != urlsplit(endpoint()).netloc:
            raise UnsafePathError(f"the hub's list of files continues on another host: {url[:200]}")


def _hub_file(row: dict[str, Any], repository: Repository) -> HubFile:
    path, size, oid, large = row.get("path"), row.get("size"), row.get("oid"), row.get("lfs")
    if not isinstance(path, str) or type(size) is not int or size < 0 or not isinstance(oid, str):
        raise SourceError(f"the hub's list of the files of {repository.id} is malformed")
    unsafe = "/" not in path or path.startswith("/") or ".." in path.split("/")
    if unsafe and not _PLAIN_FILE.fullmatch(path) and path.endswith((".safetensors", ".gguf")):
        raise UnsafePathError(f"{repository.id} lists the file {path[:200]!r}, which is not a plain file name")
    sha256 = large.get("oid", "").removeprefix("sha256:") if isinstance(large, dict) else None
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise SourceError(f"the hub states no proper checksum for {path[:200]}")
    return HubFile(path, size, sha256, oid)


def _ask(client: httpx.Client, url: str) -> Any:
    return _json(_get(client, url), url)


def _json(response: httpx.Response, url: str) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise SourceError(f"{url} did not answer with JSON; is HF_ENDPOINT right?") from error


def _get(client: httpx.Client, url: str) -> httpx.Response:
    try:
        with client.stream("GET", url) as response:
            _check_status(response, url)
            body = bytearray()
            for piece in response.iter_bytes(_PIECE_BYTES):
                body += piece
                if len(body) > _MAX_ANSWER_BYTES:
                    raise SourceError(f"{url} answers with more than {_MAX_ANSWER_BYTES} bytes")
            headers = [(name, value) for name, value in response.headers.multi_items() if name == "link"]
            return httpx.Response(response.status_code, headers=headers, content=bytes(body), request=response.request)
    except httpx.HTTPError as error:
        raise SourceError(f"{url} cannot be reached ({error}); check the network, HF_ENDPOINT and proxies") from error


def _check_status(response: httpx.Response, what: str) -> None:
    status, code = response.status_code, response.headers.get("x-error-code", "")
    if status in (401, 403) and code != "RepoNotFound":
        raise AccessError(
            f"{what}: the hub refuses ({status}); the repository is gated or private. Accept its terms on its page "
            "and set HF_TOKEN to a token of yours (huggingface.co/settings/tokens)"
        )
    if status in (401, 404):
        raise SourceError(f"{what}: there is no such repository, revision or file (or it is private: set HF_TOKEN)")
    if status >= 400:
        raise SourceError(f"{what}: the hub answers with status {status}; try again later")


def _fetch(
    client: httpx.Client, repository: Repository, commit: str, file: HubFile, folder: Path, attempts: int, bar: Any
) -> None:
    """Bring one file to its final name; a partial file from before is continued."""
    target, part = folder / file.path, folder / (file.path + PART_SUFFIX)
    if target.is_file() and _matches(target, file):
        bar.update(file.size)
        return
    url = f"{endpoint()}/{repository.id}/resolve/{commit}/{quote(file.path)}"
    spoiled = 0
    for attempt in range(1, attempts + 1):
        failure = _continue(client, url, part, file.size, bar)
        if failure is None:
            if _matches(part, file):
                part.replace(target)
                sync_folder(folder)
                return
            bar.update(-part.stat().st_size)
            part.unlink()
            spoiled += 1
            if spoiled == 2:
                raise ChecksumError(f"{url} is not what the hub's checksum says, twice; the download was discarded")
        elif attempt == attempts:
            raise SourceError(f"{url} broke off {attempts} times ({failure}); call again to go on from there")


def _continue(client: httpx.Client, url: str, part: Path, size: int, bar: Any) -> str | None:
    """Append what is missing of a file; returns why it is still incomplete, or None."""
    have = part.stat().st_size if part.is_file() else 0
    if have > size:
        part.unlink()
        have = 0
    bar.update(have)
    if have == size and part.is_file():
        return None
    start = have
    headers = {"accept-encoding": "identity"} | ({"range": f"bytes={have}-"} if have else {})
    try:
        with client.stream("GET", url, headers=headers) as response:
            _check_status(response, url)
            if have and response.status_code != 206:  # a server without ranges sends everything again
                bar.update(-have)
                start = have = 0
            with part.open("ab" if have else "wb") as out:
                # As the bytes arrive: larger pieces would be lost with the connection, and with them the progress.
                for piece in response.iter_raw():
                    have += len(piece)
                    if have > size:
                        raise ChecksumError(f"{url} sends more than the {size} bytes the hub states")
                    out.write(piece)
                    bar.update(len(piece))
                out.flush()
                os.fsync(out.fileno())
    except httpx.HTTPError as error:
        bar.update(-have)
        return str(error) or type(error).__name__
    except OSError as error:
        raise DiskFullError(f"{part} cannot be written: {error.strerror}; what was fetched so far is kept") from error
    if have == size:
        return None
    bar.update(-have)
    return f"{have} of {size} bytes from byte {start} on"


def _matches(path: Path, file: HubFile) -> bool:
    if path.stat().st_size != file.size:
        return False
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as data:
        while piece := data.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest() == (file.sha256 or file.git_sha1)


def _record(folder: Path, repository: Repository, commit: str, files: list[HubFile]) -> None:
    """Note what is complete; other GGUF files of the same commit, pulled earlier, stay on the list."""
    kept: dict[str, Any] = {}
    record = folder / RECORD
    old = record_of(folder) or {}
    if old.get("commit") == commit:
        kept = {name: entry for name, entry in old["files"].items() if (folder / name).is_file()}
    stated = {file.path: {"bytes": file.size, "sha256": file.sha256} for file in files}
    write_json(
        record,
        {
            "repository": repository.id,
            "revision": repository.revision,
            "commit": commit,
            "endpoint": endpoint(),
            "files": kept | stated,
        },
    )
