"""Problems by name, to train and to judge on: the suite's tasks, and files in the forms that sets are published in."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fathom.data.errors import RecipeError
from fathom.rl.problems import Problem, final_number
from fathom.rl.suite import TRAINED, UNTRAINED, Level, Split, problems
from fathom.rl.worked import answer_of, thought_of

LETTERS = "ABCDEFGHIJ"


def load_tasks(
    names: str, limit: int | None, *, split: Split = "test", base: Path = Path()
) -> dict[str, list[Problem]]:
    """Problems by task name.

    Args:
        names: comma-separated: `suite` (trained tasks at trained difficulty), `suite:hard`, `suite:untrained`, one task
            such as `gcd` or `gcd:hard`, or a .jsonl file (GSM8K, MATH-500, AIME, GPQA, MMLU, C-Eval as published).
            `file.jsonl[6973:]` takes a part of it.
        limit: most problems of each task; None: 50 of a generated task, all of a file.
        split: which problems of a generated task.
        base: the folder that relative files start from.

    Raises:
        RecipeError: there is no such task or file, or a line of it is of no known form.

    """
    found: dict[str, list[Problem]] = {}
    for name in names.split(","):
        name = name.strip()
        if ".jsonl" in name:
            found[Path(name.partition("[")[0]).stem] = _from_file(name, limit, base)
            continue
        for task, level in _suite(name):
            key = task if level == "easy" else f"{task}:{level}"
            found[key] = list(problems(task, limit or 50, level=level, split=split))
    return found


def _suite(name: str) -> list[tuple[str, Level]]:
    match name.split(":"):
        case ["suite"]:
            return [(task, "easy") for task in TRAINED]
        case ["suite", "hard"]:
            return [(task, "hard") for task in TRAINED]
        case ["suite", "untrained"]:
            return [(task, "easy") for task in UNTRAINED]
        case [task] if task in TRAINED or task in UNTRAINED:
            return [(task, "easy")]
        case [task, "hard"] if task in TRAINED:
            return [(task, "hard")]
    known = ", ".join(("suite", "suite:hard", "suite:untrained", *TRAINED, *UNTRAINED))
    raise RecipeError(f"there is no task {name!r}; known are {known}, and .jsonl files")


def _from_file(name: str, limit: int | None, base: Path) -> list[Problem]:
    path, bracket, part = name.partition("[")
    file = base / Path(path).expanduser()
    if not file.is_file():
        raise RecipeError(f"there is no file {file}")
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                found.append(published(json.loads(line), file.stem))
            except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
                raise RecipeError(f"{file}, line {number}: of no known form ({error!r})") from error
    if bracket:
        first, _, last = part.rstrip("]").partition(":")
        found = found[int(first or 0) : int(last) if last else None]
    return found[:limit]


def published(value: Mapping[str, Any], task: str) -> Problem:
    """One line of a published set as a problem.

    GSM8K {question, answer with ####}; MATH-500 {problem, answer}; AIME {problem or question, answer}; GPQA
    {Question, Correct Answer, Incorrect Answer 1-3}; MMLU {question, choices, answer: index or letter}; C-Eval
    {question, A, B, C, D, answer: letter}. Raises KeyError or ValueError for other forms.
    """
    if "Correct Answer" in value:
        options = [value["Correct Answer"], *(value[f"Incorrect Answer {number}"] for number in (1, 2, 3))]
        order = list(range(4))
        random.Random(value["Question"]).shuffle(order)  # always the same, but not always A
        return _multiple_choice(value["Question"], [options[place] for place in order], order.index(0), task)
    question = str(value["problem"] if "problem" in value else value["question"])
    if "choices" in value:
        right = value["answer"]
        index = LETTERS.index(right) if isinstance(right, str) else int(right)
        return _multiple_choice(question, value["choices"], index, task)
    if "A" in value and "B" in value:
        options = [value[letter] for letter in LETTERS if letter in value]
        return _multiple_choice(question, options, LETTERS.index(value["answer"]), task)
    answer = str(value["answer"])
    final = final_number(answer)
    return Problem(question, final or answer, "number" if final is not None else "math", {"task": task, **value})


def _multiple_choice(question: str, options: list[str], right: int, task: str) -> Problem:
    lines = [f"{LETTERS[place]}. {option}" for place, option in enumerate(options)]
    text = "\n".join((str(question), *lines, "Answer with the letter."))
    return Problem(text, LETTERS[right], "choice", {"task": task})


def solved_examples(task: str, count: int = 3) -> list[tuple[str, str]]:
    """Examples for few-shot prompts: from the training split, worked where the task has a worker."""
    name = task.partition(":")[0]
    if name not in TRAINED and name not in UNTRAINED:
        return []
    found = []
    for problem in problems(name, count):
        thought = thought_of(problem)
        found.append((problem.question, f"{thought}\n{answer_of(problem)}" if thought else answer_of(problem)))
    return found
