"""The process in which answers are judged by other people's code: math-verify (sympy) and reasoning-gym's scorers.

Both compute with whatever a model wrote, `9**9**9` included. So memory is bounded here, and time by whoever asks, who
ends the process. One JSON line asks, one answers: {"score": 0 to 1} or {"error": "..."}.
"""

import json
import logging
import resource
import sys
from typing import Any

_BYTES = 2 << 30
_datasets: dict[str, Any] = {}


def _math(request: dict[str, Any]) -> float:
    from math_verify import parse, verify

    gold, said = (parse(request[key], parsing_timeout=None) for key in ("answer", "said"))
    if not gold:
        raise ValueError(f"the right answer {request['answer'][:80]!r} cannot be read")
    return float(verify(gold, said, timeout_seconds=None))


def _gym(request: dict[str, Any]) -> float:
    import reasoning_gym

    task = request["task"]
    if task not in _datasets:
        _datasets[task] = reasoning_gym.create_dataset(task, size=1, seed=0)
    try:
        return float(_datasets[task].score_answer(request["said"], request["entry"]))
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, AssertionError, SyntaxError):
        # These scorers take what is not of their form for wrong only sometimes; if they can score what is right, the
        # fault is the answer's.
        _datasets[task].score_answer(request["entry"]["answer"], request["entry"])
        return 0.0


def main() -> None:
    """Answer until stdin ends."""
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    logging.disable(logging.CRITICAL)
    answers = sys.stdout
    sys.stdout = sys.stderr
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer: dict[str, Any] = {"score": {"math": _math, "gym": _gym}[request["kind"]](request)}
        except (Exception, RecursionError, MemoryError) as error:  # noqa: BLE001 - told to whoever asked
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
