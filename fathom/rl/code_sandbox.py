"""Programs written by a model, run against tests: no network, no new processes, bounded time, memory and files.

The verdict is taken from the exit status and a token that the program cannot know, so printing what tests print does
not help it. Linux only (seccomp); elsewhere nothing is run and the verifier says so.
"""

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from fathom.rl.problems import Problem
from fathom.rl.verifiers import Verdict

SECONDS = 10
_MAX_OUTPUT = 1 << 16
_BLOCK = re.compile(r"```(?:python|py)?\s*\n(.*?)```", re.DOTALL)


def judge_program(problem: Problem, answer: str, seconds: int = SECONDS) -> Verdict:
    """Run the answer's last code block (or all of it) with the tests of `problem.entry`.

    `tests`: Python that is run after the program in its namespace and raises where it is wrong (HumanEval's and MBPP's
    form), or a list of {"input", "output"} for programs that read stdin.
    """
    if not sys.platform.startswith("linux"):
        return Verdict(None, "programs are only run on Linux, where they can be kept from network and processes")
    blocks = _BLOCK.findall(answer)
    program = blocks[-1] if blocks else answer
    tests = problem.entry.get("tests")
    if isinstance(tests, str):
        return _run(program, tests, "", None, seconds)
    if not isinstance(tests, list) or not tests:
        return Verdict(None, "the problem has no tests")
    for test in tests:
        verdict = _run(program, "", str(test["input"]), str(test["output"]), seconds)
        if not verdict.right:
            return verdict
    return Verdict(1.0)


def _run(program: str, tests: str, stdin: str, expected: str | None, seconds: int) -> Verdict:
    token = secrets.token_hex(16)
    job = {"program": program, "tests": tests, "stdin": stdin, "token": token, "seconds": seconds}
    worker = Path(__file__).with_name("code_worker.py")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output:
        Path(folder).chmod(0o777)  # the worker gives its rights up where it has any
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(worker)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": ""},
            start_new_session=True,
        )
        try:
            process.communicate(json.dumps(job).encode(), timeout=seconds + 5)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            return Verdict(0.0, f"the program ran for over {seconds} s")
        finally:
            _end(process)
        output.seek(0)
        said = output.read(_MAX_OUTPUT).decode("utf-8", errors="replace")
    if process.returncode == 3:
        return Verdict(None, f"the sandbox could not be set up: {said[-300:]}")
    said, mark, _ = said.rpartition(f"\n{token}\n")
    if not mark:
        return Verdict(0.0, f"the program or a test failed (exit status {process.returncode})")
    if expected is not None and said.split() != expected.split():
        return Verdict(0.0, "the output is not what was expected")
    return Verdict(1.0)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill the whole session that the worker began, whatever is left of it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
