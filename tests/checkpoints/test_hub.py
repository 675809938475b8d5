"""Pulling from a local server that imitates the hub: cuts, wrong bytes, refusals, lies, and what ends on the disk."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

from fathom.checkpoints import hub
from fathom.checkpoints.errors import (
    AccessError,
    ChecksumError,
    DiskFullError,
    PickleRefusedError,
    SourceError,
    UnsafePathError,
)
from fathom.checkpoints.hub import pull
from fathom.checkpoints.sources import installed, record_of, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes(range(256)) * 4000
FILES = {
    "config.json": b'{"a": 1}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "LICENSE": b"MIT",
    "README.md": b"---\nlicense: mit\n---\n",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"\x80\x04evil",
    "modeling_evil.py": b"boom()",
    "training_args.bin": b"\x80\x04evil",
    "onnx/model.onnx": b"x" * 100,
}


class Hub:
    """What the server serves and how it misbehaves; `requests` records (path, range, authorization)."""

    def __init__(self):
        self.files = dict(FILES)
        self.requests = []
        self.cut_after = None  # bytes after which the connection for weights is closed, while `cuts` lasts
        self.cuts = 0
        self.spoil = 0  # how many weight downloads have a wrong byte
        self.ranges = True
        self.status = {}  # path part -> (status, x-error-code)
        self.listing = None  # replaces the tree
        self.page = 1000
        self.sent = 0
        self.away = None  # another host that weights are redirected to
        self.revision = COMMIT


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def answer(self, body, status=200, headers=()):
        self.send_response(status)
        for name, value in [("content-length", str(len(body))), *headers]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.path, self.headers.get("range"), self.headers.get("authorization")))
        for part, (status, code) in self.hub.status.items():
            if part in path:
                self.answer(b"{}", status, [("x-error-code", code)])
                return
        if match := re.fullmatch(r"/api/models/org/name/revision/(.+)", path):
            if match[1] not in ("main", "v1.0"):
                self.answer(b"{}", 404, [("x-error-code", "RevisionNotFound")])
            else:
                self.answer(json.dumps({"sha": self.hub.revision}).encode())
        elif path == f"/api/models/org/name/tree/{self.hub.revision}":
            self.tree()
        elif match := re.fullmatch(rf"/org/name/resolve/{self.hub.revision}/(.+)", path):
            self.file(match[1])
        elif path.startswith("/cdn/"):
            self.file(path.removeprefix("/cdn/"))
        else:
            self.answer(b"{}", 404, [("x-error-code", "RepoNotFound")])

    def tree(self):
        rows = self.hub.listing
        if rows is None:
            rows = [listed(path, data) for path, data in self.hub.files.items()]
        start = int(re.search(r"cursor=(\d+)", self.path)[1]) if "cursor=" in self.path else 0
        stop = start + self.hub.page
        host = f"http://{self.headers['host']}{urlsplit(self.path).path}"
        more = [("link", f'<{host}?cursor={stop}>; rel="next"')] if stop < len(rows) else []
        self.answer(json.dumps(rows[start:stop]).encode(), headers=more)

    def file(self, path):
        data, large = self.hub.files[path], path.endswith((".safetensors", ".gguf"))
        if large and self.hub.away and not self.path.startswith("/cdn/"):
            self.answer(b"", 302, [("location", f"{self.hub.away}/cdn/{path}")])
            return
        start = 0
        if self.hub.ranges and (wanted := self.headers.get("range")):
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        body = bytearray(data[start:])
        if large and self.hub.spoil:
            self.hub.spoil -= 1
            body[len(body) // 2] ^= 1
        self.send_response(206 if start else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if large and self.hub.cuts:
            self.hub.cuts -= 1
            body = body[: self.hub.cut_after]
            self.close_connection = True
        self.hub.sent += len(body)
        self.wfile.write(body)


def listed(path, data):
    oid = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    row = {"type": "file", "path": path, "size": len(data), "oid": oid}
    if path.endswith((".safetensors", ".gguf", ".bin")):
        row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return row


@pytest.fixture
def serve():
    servers = []

    def start(served):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.hub = served
        server.handle_error = lambda *_: None  # a client that has seen enough may hang up
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def served(serve, monkeypatch):
    served = Hub()
    monkeypatch.setenv("HF_ENDPOINT", serve(served) + "/")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return served


@pytest.fixture
def folder(fathom_home):
    return fathom_home / "models" / "org" / "name"


def test_only_what_a_model_needs_is_fetched_and_recorded(served, folder):
    assert pull("org/name") == folder == resolve("org/name")
    needed = {"config.json", "tokenizer.json", "tokenizer_config.json", "LICENSE", "README.md", "model.safetensors"}
    assert {path.name for path in folder.iterdir()} == needed | {".fathom.json"}
    for name in needed:
        assert (folder / name).read_bytes() == served.files[name]
    record = record_of(folder)
    assert record["commit"] == COMMIT
    assert record["files"]["model.safetensors"]["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert [model.ref for model in installed()][1:] == ["fathom:nano", "org/name"]


def test_a_second_pull_checks_and_fetches_nothing(served):
    pull("org/name")
    before = served.sent
    pull("org/name")
    assert served.sent == before


def test_a_changed_or_damaged_file_is_fetched_again(served, folder):
    pull("org/name")
    (folder / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"!")
    served.files["config.json"] = b'{"a": 2}'
    pull("org/name")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == b'{"a": 2}'


def test_a_cut_connection_goes_on_where_it_stopped(served, folder):
    served.cut_after, served.cuts = 300_000, 3
    pull("org/name")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [asked for path, asked, _ in served.requests if path.endswith("model.safetensors")]
    assert ranges == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_a_given_up_pull_goes_on_in_the_next_one(served, folder):
    served.cut_after, served.cuts = 100_000, 2
    with pytest.raises(SourceError, match="go on from there"):
        pull("org/name", attempts=2)
    assert (folder / "model.safetensors.part").stat().st_size == 200_000
    assert not (folder / "model.safetensors").exists()
    with pytest.raises(SourceError):
        resolve("org/name")
    before = served.sent
    pull("org/name")
    assert served.sent - before == len(WEIGHTS) - 200_000
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_server_without_ranges_starts_over(served, folder):
    served.cut_after, served.cuts, served.ranges = 100_000, 1, False
    pull("org/name")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_wrong_bytes_are_fetched_again_once_then_refused(served, folder):
    served.spoil = 1
    pull("org/name")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    (folder / "model.safetensors").unlink()
    served.spoil = 2
    with pytest.raises(ChecksumError, match="twice"):
        pull("org/name")
    assert not list(folder.glob("model*"))


def test_a_damaged_part_from_before_is_noticed(served, folder):
    folder.mkdir(parents=True)
    (folder / "model.safetensors.part").write_bytes(b"!" * 1000)
    (folder / "config.json.part").write_bytes(b"!" * 1000)
    pull("org/name")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_small_files_are_checked_too(served):
    served.listing = [listed(path, data) for path, data in served.files.items()]
    served.files["tokenizer.json"] = b"[]"
    with pytest.raises(ChecksumError, match=r"tokenizer\.json"):
        pull("org/name")


def test_more_bytes_than_stated_are_refused(served):
    served.listing = [listed(path, data) for path, data in served.files.items()]
    served.files["model.safetensors"] = WEIGHTS + b"more"
    with pytest.raises(ChecksumError, match="more than"):
        pull("org/name")


def test_a_list_of_files_in_pages(served, folder):
    served.page = 3
    pull("org/name")
    assert (folder / "model.safetensors").exists()


def test_a_revision_has_a_folder_of_its_own(served, folder):
    assert pull("org/name@v1.0") == folder.with_name("name@v1.0") == resolve("org/name@v1.0")
    with pytest.raises(SourceError, match="no such"):
        pull("org/name@v9")


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (401, "GatedRepo", AccessError),
        (403, "GatedRepo", AccessError),
        (401, "RepoNotFound", SourceError),
        (404, "RepoNotFound", SourceError),
        (500, "", SourceError),
    ],
)
@pytest.mark.parametrize("where", ["/revision/", "/tree/", "/resolve/"])
def test_refusals_are_told_apart(status, code, error, where, served):
    served.status[where] = (status, code)
    with pytest.raises(error, match="HF_TOKEN" if error is AccessError else "no such|try again later") as caught:
        pull("org/name")
    assert type(caught.value) is error


def test_a_missing_repository_and_a_missing_hub(served, monkeypatch):
    with pytest.raises(SourceError, match="no such repository"):
        pull("org/other")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match="cannot be reached"):
        pull("org/name")
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    with pytest.raises(SourceError, match="HF_ENDPOINT"):
        pull("org/name")


def test_the_token_goes_to_the_hub_and_not_to_another_host(served, serve, folder, monkeypatch):
    other = Hub()
    # "localhost" is another host than 127.0.0.1, as a content network is another host than the hub.
    served.away = serve(other).replace("127.0.0.1", "localhost")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pull("org/name")
    assert {token for _, _, token in served.requests} == {"Bearer hf_secret"}
    assert [token for _, _, token in other.requests] == [None]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


GGUFS = {"m-Q4_K_M.gguf": b"GGUF4", "m-Q8_0-00001-of-00002.gguf": b"GGUF8a", "m-Q8_0-00002-of-00002.gguf": b"GGUF8b"}


def test_gguf_files_are_chosen_by_name(served, folder):
    served.files = {"LICENSE": b"MIT", **GGUFS}
    with pytest.raises(SourceError, match=r"m-Q4_K_M\.gguf, m-Q8_0"):
        pull("org/name")
    assert pull("org/name:m-Q4_K_M.gguf") == folder / "m-Q4_K_M.gguf" == resolve("org/name:q4_k")
    assert pull("org/name:Q8_0") == folder / "m-Q8_0-00001-of-00002.gguf"
    assert {path.name for path in folder.iterdir()} == {*GGUFS, "LICENSE", ".fathom.json"}
    assert record_of(folder)["files"].keys() == {*GGUFS, "LICENSE"}


def test_pickled_weights_are_refused_by_name(served):
    del served.files["model.safetensors"]
    with pytest.raises(PickleRefusedError, match=r"pytorch_model\.bin"):
        pull("org/name")


@pytest.mark.parametrize(
    "row",
    [
        {"path": "../../evil.safetensors"},
        {"path": "/etc/evil.safetensors"},
        {"path": "..\\evil.safetensors"},
        {"path": "a\n.safetensors"},
        {"path": 3},
        {"size": -1},
        {"size": "1"},
        {"size": None},
        {"oid": None},
        {"lfs": {"oid": "../x", "size": 3}},
        {"lfs": {}},
    ],
)
def test_a_lying_list_of_files_is_refused(row, served, fathom_home):
    served.listing = [listed("config.json", b"{}"), listed("model.safetensors", WEIGHTS) | row]
    with pytest.raises((SourceError, UnsafePathError)):
        pull("org/name")
    assert not list(fathom_home.rglob("*.safetensors*"))


def test_a_list_that_goes_on_at_another_host_is_refused(served, monkeypatch):
    served.page = 2
    monkeypatch.setattr(Handler, "address_string", lambda self: "")
    real = Handler.tree

    def elsewhere(self):
        self.headers.replace_header("host", "evil.example")
        real(self)

    monkeypatch.setattr(Handler, "tree", elsewhere)
    with pytest.raises(UnsafePathError, match="another host"):
        pull("org/name")


def test_a_full_disk_is_said_and_what_was_fetched_stays(served, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub.os, "fsync", full)
    with pytest.raises(DiskFullError, match="No space left"):
        pull("org/name")


def test_the_default_model_needs_no_network(smollm2_gguf, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert pull("smollm2:135m") == smollm2_gguf
