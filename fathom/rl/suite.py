"""The suite of `reasoning-gym` tasks that R1 in small is trained and judged on: which, how hard, which seeds.

Trained and untrained tasks were fixed before any training. Every problem is drawn from (task, level, split, index): the
seeds of the splits differ, so no evaluated problem is a training problem but by chance of a small task.
"""

import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from fathom.rl.problems import Problem

Level = Literal["easy", "hard"]
Split = Literal["train", "dev", "test"]

# (settings of the trained difficulty, settings of the difficulty held out)
TRAINED: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "chain_sum": ({"max_terms": 4, "max_digits": 2}, {"min_terms": 5, "max_terms": 6, "max_digits": 2}),
    "products": ({"max_digits": 2}, {"min_digits": 3, "max_digits": 3}),
    "leg_counting": (
        {"min_animals": 2, "max_animals": 4, "max_instances": 9},
        {"min_animals": 5, "max_animals": 6, "max_instances": 12},
    ),
    "gcd": ({"max_value": 100}, {"min_value": 100, "max_value": 500}),
    "lcm": ({"max_value": 25}, {"min_value": 20, "max_value": 60}),
    "simple_equations": (
        {"min_terms": 2, "max_terms": 2, "max_value": 12},
        {"min_terms": 2, "max_terms": 2, "min_value": 10, "max_value": 40},
    ),
    "count_bits": ({"max_n": 255}, {"min_n": 256, "max_n": 2047}),
    "spell_backward": ({"max_word_len": 6}, {"min_word_len": 7, "max_word_len": 8}),
    "letter_counting": ({"min_words": 3, "max_words": 5}, {"min_words": 6, "max_words": 7}),
    "number_filtering": (
        {"max_numbers": 5, "max_decimals": 1},
        {"min_numbers": 6, "max_numbers": 7, "max_decimals": 1},
    ),
}
UNTRAINED: Mapping[str, dict[str, Any]] = {
    "basic_arithmetic": {"max_terms": 3, "max_digits": 2},
    "decimal_chain_sum": {"max_terms": 3, "max_digits": 2, "max_decimal_places": 1},
    "fraction_simplification": {"max_value": 20, "max_factor": 10, "styles": ("plain",)},
    "complex_arithmetic": {},
    "number_sorting": {"max_numbers": 4, "max_decimals": 0},
    "word_sorting": {"max_words": 4},
    "isomorphic_strings": {"max_string_length": 5},
    "ransom_note": {"max_note_length": 5, "max_magazine_length": 12},
    "prime_factorization": {"max_value": 100},
    "gsm_symbolic": {},
}


def settings_of(task: str, level: Level) -> dict[str, Any]:
    """The generator's settings; tasks never trained on have one level."""
    if task in TRAINED:
        return TRAINED[task][level == "hard"]
    return UNTRAINED[task]


def problems(task: str, count: int, *, level: Level = "easy", split: Split = "train") -> Iterator[Problem]:
    """The first `count` problems of a task, the same in every run."""
    import reasoning_gym

    seed = zlib.crc32(f"{task} {level} {split}".encode())
    dataset = reasoning_gym.create_dataset(task, seed=seed, size=count, **settings_of(task, level))
    for entry in dataset:
        yield Problem(entry["question"].strip(), entry["answer"], f"gym:{task}", entry)
