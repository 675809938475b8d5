"""The whole story in miniature: text to a model that answers, and going on after a stop; speed without data."""

import json
import shutil
from pathlib import Path

import pytest

from fathom.cli.main import main
from fathom.training import benchmark, speedrun
from fathom.training.benchmark import dense_recipe, dense_twin, measure_training
from fathom.training.recipe import read_recipe, recipe_path

SMALL = (
    *("model.vocab_size=340", "model.hidden_size=32", "model.num_attention_heads=2", "model.num_key_value_heads=2"),
    *("model.intermediate_size=64", "model.moe_intermediate_size=16", "model.q_lora_rank=16", "model.kv_lora_rank=16"),
    *("data.sequence_length=32", "batch.sequences=4", "batch.micro_sequences=4", "batch.ramp_from=4"),
)
SENTENCES = (
    "The ship sails to the harbour. ",
    "A cook makes soup from an onion. ",
    "The harbour is a place for ships. ",
)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Recipes that take seconds, and text instead of packages."""
    for module in (speedrun, benchmark):
        original = module.read_recipe
        monkeypatch.setattr(
            module, "read_recipe", lambda file, overrides, original=original: original(file, [*SMALL, *overrides])
        )

    def assemble(folder, _megabytes, **_options):
        texts = {
            "encyclopedia": [f"Ship {n}\n\n" + "".join(SENTENCES[(n + k) % 3] for k in range(12)) for n in range(60)]
        }
        (folder / "text").mkdir(parents=True)
        for source, documents in texts.items():
            lines = [json.dumps({"text": f"{text} Word{n * 37 % 101} ends."}) for n, text in enumerate(documents)]
            (folder / "text" / f"{source}.jsonl").write_text("\n".join(lines) + "\n")
        source = 'name = "encyclopedia"\npaths = ["text/encyclopedia.jsonl"]\nformat = "jsonl"\nquality = "none"\n'
        source += 'licence = "MIT"\norigin = "made up"\nlanguages = ["en", "und"]\n'
        head = 'output = "shards"\ntokenizer = "tokenizer"\nvalidation = 0.1\n'
        recipe = folder / "recipe.toml"
        recipe.write_text(f"{head}[[sources]]\n{source}")

    monkeypatch.setattr(speedrun, "assemble", assemble)
    return tmp_path / "run"


@pytest.mark.slow
def test_raw_text_becomes_a_model_that_answers(small, capsys):
    arguments = ["speedrun", "--output", str(small), "--tokens", "2560", "--json"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result["seconds"]) == {
        "text", "vocabulary", "shards", "conversations", "pre-training", "fine-tuning", "report",
    }  # fmt: skip
    assert result["tokens"] == 2560
    assert 0 <= result["second_token_acceptance"] <= 1
    assert (Path(result["model"]) / "generation_config.json").exists()
    page = Path(result["report"]).read_text()
    assert "Who are you?" in page
    assert page.count("<svg") == 5
    assert main(["run", "Hello!", "--model", result["model"], "--max-tokens", "4", "--json"]) == 0
    shutil.rmtree(small / "report")
    capsys.readouterr()
    assert main(arguments) == 0  # what is there is not made again
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])["seconds"]) == {"report"}


def test_the_dense_twin_computes_as_much_with_the_same_attention():
    recipe = read_recipe(recipe_path("speedrun-cpu"))
    twin = dense_recipe(recipe)
    assert twin.model.kv_lora_rank == recipe.model.kv_lora_rank
    assert twin.balance_v3 is None
    from fathom.costs import training_flops_per_token

    ours, theirs = (training_flops_per_token(one.model, 512) for one in (recipe, twin))
    assert theirs == pytest.approx(ours, rel=0.03)
    assert dense_twin(twin.model) == twin.model


def test_speed_is_measured_without_data():
    recipe = read_recipe(recipe_path("speedrun-cpu"), SMALL)
    speed = measure_training(recipe, seconds=0.1, rate=1e12)
    assert speed.steps >= 3
    assert speed.tokens_per_step == 128
    assert speed.tokens_per_second == pytest.approx(128 / speed.step_seconds)
    assert speed.mfu == pytest.approx(speed.tokens_per_second * speed.flops_per_token / 1e12)
    assert speed.peak_memory_bytes > 1e7


def test_a_forecast_counts_steps_and_looks(capsys):
    overrides = [*SMALL, "tokens=12800", "evaluation.every=10", "evaluation.rows=6", "machine.price_usd=36"]
    arguments = ["plan", str(recipe_path("speedrun-cpu")), "--seconds", "0.1", "--json"]
    for override in overrides:
        arguments += ["--set", override]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["tokens"], report["steps"], report["looks"]) == (12800, 100, 10)
    expected = (12800 + 10 * 6 * 32 / 3) / report["tokens_per_second"]
    assert report["hours"] * 3600 == pytest.approx(expected)
    assert report["cost_usd"] == pytest.approx(expected / 100)


def test_plan_prints_what_was_published(capsys):
    assert main(["plan", "v3"]) == 0
    printed = capsys.readouterr().out
    assert "2,664,000" in printed
    assert "2,788,000 H800 hours  $ 5,576,000" in printed
    assert main(["plan", "v2"]) == 0
    printed = capsys.readouterr().out
    assert "172,800 H800 hours per trillion tokens, DeepSeek 67B 300,600 (-42.5%); cache -93.3%" in printed
