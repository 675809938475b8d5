"""Recipes: every key typed and documented, mistakes refused by name, derived settings equal to counting."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fathom.data.errors import RecipeError
from fathom.models.transformer import Transformer
from fathom.training.plan import plan_run, run_length
from fathom.training.recipe import Recipe, read_recipe
from fathom.training.schedules import batch_sequences


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.weight_deacy=0.1", "did you mean 'weight_decay'"),
        ("model.hiden_size=8", "did you mean 'hidden_size'"),
        ("tokens='many'", "should be int"),
        ("model.hidden_size=0", "hidden_size"),
        ("batch.sequences=15", "multiple of micro_sequences"),
        ("precision='fp4'", "precision"),
        ("balance_v2.expert=0.1", "belongs to deepseek_v2"),
        ("model.num_nextn_predict_layers=0", "go together"),
        ("schedule.steps.factor=0.3", "not both"),
        ("data.sequence_length=4096", "max_position_embeddings"),
        ("schedule.cosine.floor=2.0", "floor"),
    ],
)
def test_mistakes_are_refused_by_name(recipe_file: Callable[[str], Path], override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe(recipe_file("v3-nano"), [override])


def test_every_key_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    recipe = {field.name: field for field in dataclasses.fields(Recipe)}
    keys = set(recipe)
    for owner in Recipe.__module__, "fathom.training.recipe":
        module = __import__(owner, fromlist=["x"])
        for name in dir(module):
            kind = getattr(module, name)
            if dataclasses.is_dataclass(kind) and kind.__module__ == owner:
                keys |= {field.name for field in dataclasses.fields(kind)}
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []


@pytest.mark.parametrize("name", ["v3-nano", "v2-nano", "dense-nano"])
def test_plan_counts_the_real_model(recipe_file: Callable[[str], Path], name: str) -> None:
    recipe = read_recipe(recipe_file(name))
    plan = plan_run(recipe, 1e12)
    with torch.device("meta"):
        model = Transformer(recipe.model)
    assert plan.parameters_total + plan.parameters_prediction == sum(p.numel() for p in model.parameters())
    assert plan.hours == pytest.approx(plan.tokens * plan.flops_per_token / (1e12 * 0.3) / 3600)


def test_a_named_gpu_is_planned_for(recipe_file: Callable[[str], Path]) -> None:
    plan = plan_run(read_recipe(recipe_file("v3-nano"), ["machine.gpu=h100", "machine.price_usd=2"]), 1.0)
    assert plan.matrix_rate == pytest.approx(989e12)
    assert plan.cost_usd == pytest.approx(2 * plan.hours)
    with pytest.raises(RecipeError, match="no peak is known"):
        plan_run(read_recipe(recipe_file("v3-nano"), ["machine.gpu=abacus"]), 1.0)


@pytest.mark.parametrize("ramp", [[], ["batch.ramp_from=8", "batch.ramp_until=0.5"], ["batch.ramp_until=1.0"]])
def test_run_length_equals_walking_through_the_run(recipe_file: Callable[[str], Path], ramp: list[str]) -> None:
    recipe = read_recipe(recipe_file("v3-nano"), ["batch.sequences=32", *ramp, "tokens=1000001"])
    steps = tokens = 0
    while tokens < recipe.tokens:
        tokens += batch_sequences(recipe.batch, tokens / recipe.tokens) * recipe.data.sequence_length
        steps += 1
    assert run_length(recipe) == (steps, tokens)
