"""Distillation and the chain of stages, on a tiny model whose adapter is made to answer rightly now and then."""

import importlib.util
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from fathom.data.errors import RecipeError
from fathom.rl import stages
from fathom.rl.distill import DistillRecipe, Teacher, distill
from fathom.rl.grpo_recipe import Source
from fathom.rl.stages import ColdStart, R1Recipe, Stage, read_r1_recipe, run_stages

_spec = importlib.util.spec_from_file_location("chat_model", Path(__file__).parents[1] / "training" / "chat_model.py")
chat_model = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(chat_model)
RECIPES = Path(__file__).parents[2] / "recipes" / "r1"


def quiet(_text: str) -> None:
    """Say nothing."""


class Endpoint(BaseHTTPRequestHandler):
    """Adds rightly, with a thought; every second answer is wrong, and it counts what it was asked."""

    asked = 0

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked += 1
        first, second = body["messages"][0]["content"].split("+")
        right = int(first) + int(second) + body["seed"] % 2
        content = f"<think>\n{first} and {second}\n</think>\n\nThe answer is {right}."
        reply = json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint():
    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    Endpoint.asked = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_right_answers_of_an_endpoint_are_kept_and_not_asked_for_again(endpoint, tmp_path):
    lines = [{"question": f"{number}+1", "answer": f"#### {number + 1}"} for number in range(5)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, lines)))
    recipe = DistillRecipe(Teacher("any", url=endpoint), "out", (Source("sums.jsonl"),), samples=4, keep=2)
    kept = distill(recipe, tmp_path, say=quiet)
    assert (kept.problems, kept.asked, kept.solved, kept.kept, kept.failed) == (5, 5, 5, 10, 0)
    first = json.loads(kept.file.read_text().splitlines()[0])["messages"]
    number = int(first[0]["content"].removesuffix("+1"))
    answer = f"The answer is {number + 1}."
    assert first[1] == {"role": "assistant", "content": answer, "reasoning_content": f"{number} and 1"}
    assert Endpoint.asked == 20
    assert distill(recipe, tmp_path, say=quiet) == kept
    assert Endpoint.asked == 20
    with pytest.raises(RecipeError, match="another recipe"):
        distill(replace(recipe, samples=2), tmp_path, say=quiet)


def test_a_bound_on_minutes_ends_it_early_and_a_later_call_goes_on(endpoint, tmp_path):
    lines = [{"question": f"{number}+1", "answer": f"#### {number + 1}"} for number in range(300)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, lines)))
    recipe = DistillRecipe(Teacher("any", url=endpoint), "out", (Source("sums.jsonl"),), samples=1, minutes=1e-9)
    said: list[str] = []
    assert distill(recipe, tmp_path, say=said.append).asked == 0
    assert "the same call goes on" in said[-1]
    assert distill(replace(recipe, minutes=1), tmp_path, say=quiet).asked == 300


def test_stages_build_on_one_another_and_are_not_done_twice(tmp_path, monkeypatch):
    chat_model.write_chat_model(tmp_path / "model")
    chat_model.write_conversations(tmp_path / "cold.jsonl")
    (tmp_path / "sums.jsonl").write_text(json.dumps({"question": "1+1", "answer": "#### 2"}))
    common = 'model = "model"\noutput = "unused"\ndialect = "chatml-think"\nprecision = "float32"\n'
    (tmp_path / "sft.toml").write_text(
        common + 'epochs = 1.0\n[data]\nfiles = ["x"]\n[lora]\nrank = 2\n[schedule]\npeak = 0.01\n'
    )
    (tmp_path / "rl.toml").write_text(
        common
        + 'steps = 1\nrate = 0.01\nquestions = 1\ngroup_size = 2\nmax_tokens = 8\nrunner = "torch"\nthreads = 1\n'
        '[lora]\nrank = 2\n[[sources]]\ntask = "sums.jsonl"\n[[sources]]\ntask = "not_here.jsonl"\n'
    )
    monkeypatch.setattr(stages, "_cold_start", lambda *_: [str(tmp_path / "cold.jsonl")])
    recipe = R1Recipe(
        output="out",
        model=str(tmp_path / "model"),
        stages=(Stage("cold", "sft", "sft.toml"), Stage("rl", "grpo", "rl.toml", start="cold")),
        cold_start=ColdStart(),
    )
    said: list[str] = []
    results = run_stages(recipe, tmp_path, say=said.append)
    assert (results["cold"] / "adapter_config.json").is_file()
    state = json.loads((results["rl"] / "training" / "state.json").read_text())
    assert state["recipe"]["lora"]["start"] == str(results["cold"])
    assert any("not at hand" in text for text in said)
    assert run_stages(recipe, tmp_path, say=said.append) == results
    assert said[-2:] == ["cold: done already", "rl: done already"]


def test_the_recipes_of_r1_are_sound():
    recipe = read_r1_recipe(RECIPES / "r1.toml")
    kinds = {"sft": stages.read_sft_recipe, "grpo": stages.read_grpo_recipe, "distill": stages.read_distill_recipe}
    for stage in recipe.stages:
        kinds[stage.kind](RECIPES / stage.recipe)
    with pytest.raises(RecipeError, match="no stage before it"):
        read_r1_recipe(RECIPES / "r1.toml", ["stages.zero.start=final"])
