"""Verifiers: whether an answer is right. None of them crashes a run, and none counts its own failure as the model's.

Numbers, exact texts and choices are compared here; mathematics (math-verify), the scorers of `reasoning-gym` and
programs run in processes of their own, bounded in time and memory.
"""

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from fathom.rl.problems import Problem
from fathom.text.worker_process import WorkerProcess, WorkerProcessError

SECONDS = 10.0  # for one judgement
_MAX_ANSWER = 4096  # characters of an answer that are looked at
_STATED = re.compile(r"(?:answer|result)\s*(?:is|=|:)\s*:?\s*(.+)", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*)?\.?\d+(?:[eE][-+]?\d+)?")
_CHOICE = re.compile(r"\b([A-J])\b")


@dataclass(frozen=True, slots=True)
class Verdict:
    """`score`: 0 (wrong) to 1 (right); None: the verifier failed, and `why` says how. Such a rollout is left out."""

    score: float | None
    why: str = ""

    @property
    def right(self) -> bool:
        """Whether the answer is right."""
        return self.score is not None and self.score >= 1.0


def final_answer(text: str) -> str:
    """What an answer says in the end: in the last LaTeX box, else what follows "the answer is", else all of it."""
    text = text[-_MAX_ANSWER:]
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed.strip()
    stated = _STATED.findall(text)
    answer = stated[-1] if stated else text
    answer = answer.strip().strip("*$`").strip()
    return answer[:-1].rstrip().rstrip("*$`") if answer.endswith(".") else answer


def _last_boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 1, start + len("\\boxed{")
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin:place]
    return None


def _exact(problem: Problem, said: str) -> Verdict:
    def plain(text: str) -> str:
        return " ".join(text.split()).casefold()

    return Verdict(float(plain(said) == plain(problem.answer)))


def _number(problem: Problem, said: str) -> Verdict:
    wanted = _decimal(problem.answer)
    if wanted is None:
        return Verdict(None, f"the right answer {problem.answer[:80]!r} is no number")
    found = [_decimal(match) for match in _NUMBER.findall(said)]
    return Verdict(float(bool(found) and found[-1] == wanted))


def _decimal(text: str) -> Decimal | None:
    try:
        number = Decimal(text.strip().replace(",", "").removeprefix("$").removesuffix("%")[:100])
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number.adjusted()) < 400 else None


def _choice(problem: Problem, said: str) -> Verdict:
    letters = _CHOICE.findall(said.replace("(", " ").replace(")", " "))
    return Verdict(float(bool(letters) and letters[-1] == problem.answer.strip().strip("()")))


class _Judge:
    """One bounded process for the code of others, shared by all threads; started when first needed."""

    def __init__(self) -> None:
        self._worker = WorkerProcess(Path(__file__).with_name("verify_worker.py"), max_line=1 << 16)
        self._lock = threading.Lock()

    def ask(self, request: dict[str, Any], seconds: float) -> Verdict:
        try:
            with self._lock:
                answer = self._worker.ask(request, seconds)
        except WorkerProcessError as error:
            return Verdict(None, str(error))
        if answer is None:
            # The right answers are quick to judge: what takes so long is what the model wrote.
            return Verdict(0.0, f"judging took over {seconds:g} s or too much memory")
        return Verdict(None, answer["error"]) if "error" in answer else Verdict(float(answer["score"]))


_judge = _Judge()


def _math(problem: Problem, said: str) -> Verdict:
    return _judge.ask({"kind": "math", "answer": f"${problem.answer}$", "said": f"${said}$"}, SECONDS)


def _gym(problem: Problem, said: str) -> Verdict:
    task = problem.verifier.removeprefix("gym:")
    try:
        return _judge.ask({"kind": "gym", "task": task, "entry": dict(problem.entry), "said": said}, SECONDS)
    except TypeError as error:
        return Verdict(None, f"the problem of {task} cannot be sent to its scorer: {error}")


Verifier = Callable[[Problem, str], Verdict]
VERIFIERS: Mapping[str, Verifier] = {"exact": _exact, "number": _number, "choice": _choice, "math": _math}


def verify(problem: Problem, answer: str) -> Verdict:
    """Judge an answer (without its thought); never raises."""
    said = final_answer(answer)
    if not said:
        return Verdict(0.0, "there is no answer")
    try:
        if problem.verifier.startswith("gym:"):
            return _gym(problem, said)
        if problem.verifier == "code":
            from fathom.rl.code_sandbox import judge_program

            return judge_program(problem, answer)
        verifier = VERIFIERS.get(problem.verifier)
        if verifier is None:
            return Verdict(None, f"there is no verifier {problem.verifier!r}")
        return verifier(problem, said)
    except Exception as error:  # noqa: BLE001 - a verifier must never end a run of hours
        return Verdict(None, f"{type(error).__name__}: {error}"[:500])
