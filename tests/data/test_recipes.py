"""The recipes that ship: readable, and the complete one names every key with the default that the code has."""

import re
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.data.errors import RecipeError
from fathom.data.quality import CodeRules, ProseRules
from fathom.data.recipe import Decontaminate, Deduplicate, Evaluation, FimSettings, Recipe, Source, read_recipe
from fathom.data.typed import apply_override, from_table

FOLDER = Path(__file__).parents[2] / "recipes" / "data"
COMPLETE = (FOLDER / "complete.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.toml")), ids=lambda file: file.name)
def test_shipped_recipes_are_read(file: Path) -> None:
    assert read_recipe(file).sources


@pytest.mark.parametrize(
    "kind", [Recipe, Source, Deduplicate, Decontaminate, Evaluation, FimSettings, ProseRules, CodeRules]
)
def test_the_complete_recipe_names_every_key(kind: type) -> None:
    for field in fields(kind):
        if not is_dataclass(field.type) and field.name not in ("deduplicate", "decontaminate", "fim", "quality"):
            assert re.search(rf"^(\[\[.*)?{field.name}\b", COMPLETE, re.MULTILINE), field.name


def test_the_complete_recipe_shows_the_defaults() -> None:
    recipe = read_recipe(FOLDER / "complete.toml")
    assert (recipe.deduplicate, recipe.quality.prose, recipe.quality.code) == (Deduplicate(), ProseRules(), CodeRules())
    assert (recipe.fim, recipe.decontaminate.words, recipe.decontaminate.shortest) == (FimSettings(), 13, 8)
    defaults = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}
    assert {name: getattr(recipe, name) for name in defaults} == defaults


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers())
    )
)
def test_any_table_without_the_required_keys_is_refused_by_name(table: dict[str, Any]) -> None:
    if {"name", "paths"} <= table.keys():
        return  # could be right; the strings below cannot
    with pytest.raises(RecipeError, match=r"^source(: |\.)"):
        from_table(Source, table, "source")


def test_overrides() -> None:
    table: dict[str, Any] = {"sources": [{"name": "a", "epochs": 1}], "seed": 1}
    for override in ("sources.a.epochs=2.5", "fim.rate=0.5", "output=some/where", "sources.a.languages=['en']"):
        apply_override(table, override)
    assert table == {
        "sources": [{"name": "a", "epochs": 2.5, "languages": ["en"]}],
        "seed": 1,
        "fim": {"rate": 0.5},
        "output": "some/where",
    }
    for wrong in ("nothing", "seed.x=1", "seed.x.y=1", "=2"):
        with pytest.raises(RecipeError, match="--set"):
            apply_override(table, wrong)
