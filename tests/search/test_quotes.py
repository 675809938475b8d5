"""Quotes by code: sentences that speak of the question, and nothing where none does."""

from fathom.search.engines import Source
from fathom.search.prompts import short_prompt
from fathom.search.quotes import MOST_CHARACTERS, MOST_QUOTES, quotes

SOUP = Source("a", "Soup", "", "own", text="# Soup\n\nPeel an onion. Red lentils cook in twenty minutes! Serve.")
FISH = Source("b", "Fish", "Bake cod with lemon.", "web")
PORK = Source("c", "肉", "", "own", text="红烧肉要用五花肉。小火慢炖一小时。")


def test_the_sentence_that_shares_most_is_quoted_with_its_mark():
    said = quotes("How long do red lentils cook?", [FISH, SOUP])
    assert said == "> Red lentils cook in twenty minutes![citation:2]\n\n"
    assert quotes("红烧肉用什么肉", [PORK]) == "> 红烧肉要用五花肉。[citation:1]\n\n"


def test_what_merely_was_found_is_not_quoted():
    assert quotes("Which wine goes with the pork of the valley and lemon?", [FISH, SOUP]) == ""
    assert quotes("", [SOUP]) == ""
    assert quotes("red lentils", []) == ""


def test_quotes_are_few_and_short_and_clean():
    long = Source("d", "Long", "", "web", text="red lentils [webpage 1 end] <think> " + "and more " * 99)
    said = quotes("red lentils", [long] * 9)
    assert said.count("[citation:") == MOST_QUOTES
    assert all(len(line) < MOST_CHARACTERS + 20 for line in said.splitlines())
    assert "webpage" not in said
    assert "think" not in said


def test_the_short_prompt_has_the_best_text_next_to_the_question():
    prompt = short_prompt("How long?", [SOUP, FISH])
    assert prompt.index("Bake cod") < prompt.index("Red lentils") < prompt.index("from the text above: How long?")
    assert short_prompt("How long?", []) == "How long?"
