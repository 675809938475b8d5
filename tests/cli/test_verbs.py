"""What each verb prints, on the default model and the presets."""

import functools
import json
import signal
import subprocess
import sys
import time

import pytest
import torch

from fathom.checkpoints.adapters import read_adapter, write_adapter
from fathom.cli.main import main
from fathom.models.adapter import Adapter


def json_of(capsys, *arguments):
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(
    ("ref", "total", "active", "cache"),
    [("v3", 671.0, 36.6, 70272), ("v2", 235.7, 20.9, 69120), ("v2-lite", 15.7, 2.45, 31104)],
)
def test_show_and_plan_know_the_presets(ref, total, active, cache, capsys):
    for verb in ("show", "plan"):
        facts = json_of(capsys, verb, ref)
        assert facts["parameters_total"] / 1e9 == pytest.approx(total, abs=0.06)
        assert facts["parameters_active"] / 1e9 == pytest.approx(active, abs=0.06)
        assert facts["cache_bytes_per_token"] == cache


def test_plan_v3_comes_near_the_published_cost(capsys):
    report = json_of(capsys, "plan", "v3", "--tokens", "14.8T")
    assert report["train_gpu_hours"] == pytest.approx(2.664e6, rel=0.05)
    assert report["train_cost_usd"] == pytest.approx(2 * report["train_gpu_hours"])
    double = json_of(capsys, "plan", "v3", "--tokens", "14.8T", "--price", "4")
    assert double["train_cost_usd"] == pytest.approx(2 * report["train_cost_usd"])


def test_plan_reads_a_config_file(tmp_path, capsys):
    from fathom.models import PRESETS

    path = tmp_path / "config.json"
    path.write_text(json.dumps(PRESETS["v2-lite"].to_hf()))
    assert (
        json_of(capsys, "plan", str(path))["parameters_total"] == json_of(capsys, "plan", "v2-lite")["parameters_total"]
    )


def test_plan_refuses_nonsense(capsys):
    assert main(["plan", "v3", "--mfu", "2"]) == 2
    assert "mfu" in capsys.readouterr().err


def test_show_and_list_the_default_model(smollm2_gguf, capsys):
    facts = json_of(capsys, "show", "smollm2:135m")
    assert facts["parameters_total"] == 134_515_008
    assert facts["licence"] == "apache-2.0"
    assert facts["tensor_types"] == {"Q4_1": 210, "Q8_0": 1, "F32": 61}
    assert [model["ref"] for model in json_of(capsys, "list")["models"]] == ["smollm2:135m", "fathom:nano"]
    assert main(["show", "smollm2:135m"]) == 0
    assert "apache-2.0" in capsys.readouterr().out


def test_rm_leaves_the_default_model_alone(smollm2_gguf, capsys):
    assert main(["rm", "smollm2:135m"]) == 1
    assert "pip uninstall" in capsys.readouterr().err


def test_export_then_show(smollm2_gguf, tmp_path, capsys):
    assert main(["export", "smollm2:135m", str(tmp_path / "out"), "--dtype", "bf16"]) == 0
    capsys.readouterr()
    assert json_of(capsys, "show", str(tmp_path / "out"))["parameters_total"] == 134_515_008


def test_export_averages_adapters(tmp_path, capsys):
    def write(name: str, number: float) -> str:
        pairs = {"model.layers.0.self_attn.q_proj": (torch.full((2, 4), number), torch.full((4, 2), -number))}
        write_adapter(tmp_path / name, Adapter(2.0, pairs), base="ORG/NAME")
        return str(tmp_path / name)

    first, second, out = write("first", 1.0), write("second", 3.0), str(tmp_path / "out")
    assert main(["export", first, out, "--mix", second, "--share", "0.25", "--dtype", "f32"]) == 0
    stored = read_adapter(out)
    assert stored.base == "ORG/NAME"
    assert [matrix.unique().tolist() for matrix in stored.adapter.pairs["model.layers.0.self_attn.q_proj"]] == [
        [1.5],
        [-1.5],
    ]
    for bad in (["--share", "2"], ["--to", "gguf"], ["--dtype", "fp8"], []):  # the last: the folder is taken
        assert main(["export", first, out, "--mix", second, *bad]) != 0
    capsys.readouterr()


def test_doctor_is_content_here(smollm2_gguf, capsys, monkeypatch):
    monkeypatch.setenv("FATHOM_PORT", "0")
    assert json_of(capsys, "doctor")["good"] is True
    monkeypatch.setenv("FATHOM_MODEL", "nosuch/model")
    assert main(["doctor"]) == 1
    assert "fathom pull nosuch/model" in capsys.readouterr().out


def test_run_as_json_and_from_stdin(smollm2_gguf, fathom):
    options = ("--max-tokens", "6", "--temperature", "0", "--json")
    given = fathom("run", "Say hello.", *options)
    piped = fathom("run", *options, stdin="Say hello.")
    assert given.returncode == piped.returncode == 0
    answer = json.loads(given.stdout)
    assert answer["content"] == json.loads(piped.stdout)["content"]
    assert answer["usage"]["completion_tokens"] == 6
    assert answer["reasoning_content"] is None
    assert answer["timings"]["total_seconds"] > 0


def test_run_prints_only_the_answer_on_stdout(smollm2_gguf, fathom):
    done = fathom(
        "run", "Say hello.", "--max-tokens", "6", "--temperature", "0", "--think", "--verbose", FATHOM_THINKER="off"
    )
    assert "\033" not in done.stdout + done.stderr
    assert "cannot think" in done.stderr
    assert "tokens/s" in done.stderr
    assert "loading" not in done.stdout
    assert done.stdout.strip()


def test_run_thinks_with_the_default_model(smollm2_gguf, fathom):
    done = fathom("run", "State the final answer: 7 + 4 - 5 =", "--think", "--temperature", "0", "--json")
    answer = json.loads(done.stdout)
    assert answer["reasoning_content"].strip()
    assert answer["content"].strip()
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


def test_run_without_a_prompt(fathom):
    done = fathom("run", stdin=" \n")
    assert done.returncode == 2
    assert "fathom run" in done.stderr


def test_run_interrupted_is_130(smollm2_gguf):
    command = [sys.executable, "-m", "fathom.cli.main", "run", "Tell a very long story.", "--temperature", "1.5"]
    # A shell's background jobs, and so their tests, ignore SIGINT, and would hand that on.
    listening = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, preexec_fn=listening, **pipes) as process:
        assert process.stdout.read(1)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert "Traceback" not in process.stderr.read()


def test_chat_from_a_script(smollm2_gguf, fathom):
    lines = "Say hello.\n/think\n/new\n/nosuch\n/exit\nnever read\n"
    done = fathom("chat", "--max-tokens", "5", "--temperature", "0", stdin=lines, FATHOM_THINKER="off")
    assert done.returncode == 0
    assert "cannot think" in done.stderr
    assert "a new conversation" in done.stderr
    assert "there is no /nosuch" in done.stderr
    assert len(done.stdout.strip().splitlines()) == 1
