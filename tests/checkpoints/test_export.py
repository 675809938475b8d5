"""Conversion: equal logits, resumed after a kill, nothing half-written when the disk is full, little memory."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from fathom.checkpoints import writing
from fathom.checkpoints.errors import CheckpointError, DiskFullError, NonFiniteError
from fathom.checkpoints.export import PROGRESS, export
from fathom.checkpoints.loading import load_model
from fathom.checkpoints.opening import open_checkpoint
from fathom.checkpoints.saving import save_model


@pytest.fixture
def source(make_model, tmp_path):
    save_model(make_model("v3", torch.bfloat16), tmp_path / "source")
    (tmp_path / "source" / "tokenizer.json").write_text("{}")
    return tmp_path / "source"


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_gguf_becomes_a_folder_with_the_same_logits(make_model, write_gguf, logits_of, tmp_path):
    checkpoint = open_checkpoint(write_gguf(make_model("llama"), tmp_path / "tiny.gguf", "Q8_0"))
    said = []
    folder = export(checkpoint.path, tmp_path / "out", dtype="f32", max_shard_bytes=100_000, report=said.append)
    assert "tokenizer" in said[0]
    expected = logits_of(load_model(checkpoint, dtype=torch.float32))
    assert torch.equal(logits_of(load_model(open_checkpoint(folder), dtype=torch.float32)), expected)


def test_side_files_come_along_and_the_progress_file_goes(source, tmp_path):
    folder = export(source, tmp_path / "out", dtype="f16")
    assert (folder / "tokenizer.json").read_text() == "{}"
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "float16"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    with pytest.raises(CheckpointError, match="already holds a model"):
        export(source, folder)


def test_numbers_beyond_float16_are_refused(make_model, tmp_path):
    model = make_model("llama", torch.bfloat16)
    model.model.norm.weight.data[0] = 1e6
    save_model(model, tmp_path / "source")
    with pytest.raises(NonFiniteError, match=r"model\.norm\.weight"):
        export(tmp_path / "source", tmp_path / "out", dtype="f16")


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it and clean up... except what a dead process leaves anyway."""


def test_a_stopped_export_goes_on_and_keeps_finished_shards(source, tmp_path, monkeypatch):
    whole = files_of(export(source, tmp_path / "whole", max_shard_bytes=50_000))
    out, real, written = tmp_path / "out", os.write, []

    def stops(descriptor, data):
        written.append(len(data))
        if sum(written) > 200_000:
            raise Killed
        return real(descriptor, data)

    monkeypatch.setattr(writing.os, "write", stops)
    with pytest.raises(Killed):
        export(source, out, max_shard_bytes=50_000)
    monkeypatch.undo()
    assert not (out / "config.json").exists()
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    assert len(finished) >= 2
    damaged = sorted(finished)[0]
    (out / damaged).write_bytes((out / damaged).read_bytes()[:-1] + b"x")
    export(source, out, max_shard_bytes=50_000)
    assert files_of(out) == whole
    for name, when in finished.items():
        assert ((out / name).stat().st_mtime_ns == when) == (name != damaged)


def test_a_killed_process_leaves_what_a_second_run_completes(source, tmp_path):
    """A real SIGKILL in the middle; whatever it leaves, the second run ends with the same files."""
    whole = files_of(export(source, tmp_path / "whole", max_shard_bytes=20_000))
    code = (
        "import os, sys, time\nfrom fathom.checkpoints import writing\nfrom fathom.checkpoints.export import export\n"
        "real = os.write\ndef slow(fd, data):\n    time.sleep(0.005)\n    return real(fd, data[:999])\n"
        "writing.os.write = slow\nexport(sys.argv[1], sys.argv[2], max_shard_bytes=20_000)\n"
    )
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", code, str(source), str(out)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.safetensors"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (out / PROGRESS).exists()
    assert not (out / "config.json").exists()
    assert files_of(export(source, out, max_shard_bytes=20_000)) == whole


def test_an_unfinished_export_of_something_else_is_not_continued(source, tmp_path, monkeypatch):
    def stop(*args):
        raise Killed

    monkeypatch.setattr("fathom.checkpoints.export.write_index", stop)
    with pytest.raises(Killed):
        export(source, tmp_path / "out")
    monkeypatch.undo()
    for changed in ({"dtype": "f32"}, {"max_shard_bytes": 100}):
        with pytest.raises(CheckpointError, match="unfinished export"):
            export(source, tmp_path / "out", **changed)
    export(source, tmp_path / "out")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_leaves_no_half_file_and_can_be_resumed(number, source, tmp_path, monkeypatch):
    out, real, written = tmp_path / "out", os.write, []

    def full(descriptor, data):
        written.append(len(data))
        if sum(written) > 120_000:
            raise OSError(number, "no room")
        return real(descriptor, data)

    monkeypatch.setattr(writing.os, "write", full)
    with pytest.raises(DiskFullError, match="no room"):
        export(source, out, max_shard_bytes=50_000)
    monkeypatch.undo()
    left = sorted(path.name for path in out.iterdir())
    assert not [name for name in left if name.endswith(".part")]
    assert "config.json" not in left
    export(source, out, max_shard_bytes=50_000)
    load_model(open_checkpoint(out), dtype=torch.bfloat16)


def test_too_little_room_is_said_before_anything_is_written(source, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("fathom.checkpoints.export.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DiskFullError, match="1,000 are free"):
        export(source, tmp_path / "out")
    assert not list((tmp_path / "out").glob("model*"))


@pytest.mark.slow
def test_peak_memory_stays_near_one_shard(make_model, tmp_path):
    """A model of 1.2 GB in shards of 64 MB: what the process adds to its memory is a fraction of the model."""
    model = make_model(
        "llama", torch.bfloat16, hidden_size=1024, intermediate_size=4096, num_hidden_layers=48, head_dim=64
    )
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert size > 1_000_000_000
    save_model(model, tmp_path / "source", max_shard_bytes=64_000_000)
    # VmHWM, not getrusage: ru_maxrss survives exec, so a child would report the size of this process.
    code = (
        "import re, sys\nfrom pathlib import Path\nfrom fathom.checkpoints.export import export\n"
        "peak = lambda: 1024 * int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "before = peak()\n"
        "export(sys.argv[1], sys.argv[2], dtype='f32', max_shard_bytes=64_000_000)\n"
        "print(peak() - before)\n"
    )
    args = [sys.executable, "-c", code, str(tmp_path / "source"), str(tmp_path / "out")]
    added = int(subprocess.run(args, capture_output=True, text=True, check=True).stdout)
    print(f"model {size:,} bytes, peak added {added:,} bytes")
    assert 10_000_000 < added < 200_000_000
