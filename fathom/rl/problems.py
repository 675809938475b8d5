"""What a rollout is asked: a question, the answer that is right, and who judges it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fathom.data.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with a checkable answer.

    Attributes:
        question: what the user says.
        answer: the right answer as its source writes it.
        verifier: who judges: `math`, `exact`, `number`, `choice`, `code`, or `gym:TASK` (that generator's own score).
        entry: what the verifier needs besides (tests of a program, a generator's metadata).

    """

    question: str
    answer: str
    verifier: str
    entry: Mapping[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """The name that results are grouped by."""
        return str(self.entry.get("task") or self.verifier.removeprefix("gym:"))


def read_problems(file: Path) -> list[Problem]:
    """Problems from JSONL: {"question", "answer"} with GSM8K's `#### 42` understood, optionally "verifier".

    Raises:
        RecipeError: the file is missing, or a line is not of that form.

    """
    if not file.is_file():
        raise RecipeError(f"there is no file of problems {file}")
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            question, answer = str(value["question"]), str(value["answer"])
        except (ValueError, TypeError, KeyError) as error:
            raise RecipeError(f"{file}, line {number}: not a problem with question and answer ({error!r})") from error
        final = final_number(answer)
        verifier = value.get("verifier", "number" if final is not None else "math")
        found.append(Problem(question, final or answer, verifier, {"task": file.stem, **value}))
    return found


def final_number(solution: str) -> str | None:
    """What stands behind GSM8K's `####`, without thousands separators; None where there is none."""
    _, mark, final = solution.rpartition("#### ")
    return final.strip().replace(",", "") if mark else None
