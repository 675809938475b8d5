"""Rewards of a rollout by kind, as R1 composes them: accuracy, format, language, guards of length and repetition."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

from fathom.rl.problems import Problem
from fathom.rl.verifiers import verify

_WORD = re.compile(r"\w+", re.UNICODE)
_MARKUP = ("<think>", "</think>", "<answer>", "</answer>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """Weights of the kinds of reward; a weight of 0 leaves a kind out.

    `accuracy`: right or wrong. `format`: the thought was ended by the model itself and an answer without markup
    follows (R1-Zero: equal weight; here less, since the base model has nothing else to learn from). `language`: share
    of the thought's letters that belong to `script` (R1: words of the target language). `repetition`: taken off for the
    share of repeated 8-grams in the output. `length`: taken off where the output was cut off at its bound.
    """

    accuracy: float = 1.0
    format: float = 0.1
    language: float = 0.0
    repetition: float = 0.1
    length: float = 0.0
    script: str = "LATIN"


@dataclass(frozen=True, slots=True)
class Said:
    """The output of one rollout. `closed`: the model ended its thought itself (or was not asked for one); `cut_off`:
    the output ended at its bound.
    """

    thought: str
    answer: str
    closed: bool
    cut_off: bool


@dataclass(frozen=True, slots=True)
class Reward:
    """Each kind before its weight, and the sum. `accuracy` None: the verifier failed, the rollout must be left out."""

    accuracy: float | None
    format: float
    language: float
    repetition: float
    cut_off: bool
    total: float
    why: str = ""


def reward(problem: Problem, said: Said, settings: RewardSettings) -> Reward:
    """The reward of one rollout."""
    verdict = verify(problem, said.answer) if said.closed else None
    accuracy = 0.0 if verdict is None else None if verdict.score is None else float(verdict.right)
    shape = float(said.closed and not said.cut_off and well_formed(said.thought, said.answer))
    language = script_share(said.thought, settings.script) if settings.language else 0.0
    repeated = repetition(f"{said.thought}\n{said.answer}")
    total = settings.accuracy * (accuracy or 0.0) + settings.format * shape + settings.language * language
    total -= settings.repetition * repeated + settings.length * said.cut_off
    return Reward(accuracy, shape, language, repeated, said.cut_off, total, verdict.why if verdict else "no answer")


def well_formed(thought: str, answer: str) -> bool:
    """Whether both parts say something and no markup stands in either."""
    both = thought + answer
    return bool(thought.strip()) and bool(answer.strip()) and not any(tag in both for tag in _MARKUP)


def script_share(text: str, script: str) -> float:
    """Share of the letters of `text` that belong to a script by their Unicode names; 1 for text without letters."""
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return 1.0
    return sum(unicodedata.name(letter, "").startswith(script) for letter in letters) / len(letters)


def repetition(text: str, size: int = 8) -> float:
    """Share of the n-grams of words that occurred before; 0 for short texts."""
    words = _WORD.findall(text.casefold())
    grams = Counter(tuple(words[place : place + size]) for place in range(len(words) - size + 1))
    total = sum(grams.values())
    return 0.0 if total == 0 else 1 - len(grams) / total
