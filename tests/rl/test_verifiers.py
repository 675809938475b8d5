import pytest

from fathom.rl.code_sandbox import judge_program
from fathom.rl.problems import Problem, read_problems
from fathom.rl.rewards import RewardSettings, Said, repetition, reward, script_share
from fathom.rl.suite import TRAINED, UNTRAINED, problems
from fathom.rl.tasks import load_tasks, published
from fathom.rl.verifiers import final_answer, verify
from fathom.rl.worked import answer_of, gsm8k_thought, product_steps, sum_steps, thought_of


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 42.", "42"),
        ("So the answer is: **42**.", "42"),
        (r"We get \boxed{\frac{1}{2}} in the end.", r"\frac{1}{2}"),
        ("42", "42"),
        ("The answer is ['-3.5', '2'].", "['-3.5', '2']"),
        (r"\boxed{never closed", r"\boxed{never closed"),
    ],
)
def test_final_answers(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("verifier", "right", "good", "bad"),
    [
        ("number", "1234", ["1,234", "$1234.00", "It is 1234"], ["1235", "12 34 5", "", "no"]),
        ("exact", "Paris", ["paris", " The answer is Paris. "], ["Paris, France", "Rome"]),
        ("choice", "B", ["B", "(B)", "The answer is B."], ["A", "A or C", "Because"]),
        ("math", r"\frac{1}{2}", ["0.5", r"$\frac12$", r"\boxed{1/2}"], ["0.25", "2"]),
    ],
)
def test_right_and_wrong(verifier, right, good, bad):
    problem = Problem("?", right, verifier)
    assert [verify(problem, text).right for text in good] == [True] * len(good)
    assert [verify(problem, text).score for text in bad] == [0.0] * len(bad)


@pytest.mark.parametrize(
    "hostile",
    [
        "9**9**9**9",
        "(" * 3000,
        "\\frac{" * 500,
        "1e999999999",
        "\x00\ud800",
        "x" * 100_000,
        "exit(1)",
    ],
)
def test_hostile_answers_are_wrong_and_never_raise(hostile):
    for problem in (
        Problem("?", "7", "math"),
        Problem("?", "7", "number"),
        Problem("?", "7", "exact"),
        next(iter(problems("basic_arithmetic", 1))),
        next(iter(problems("number_filtering", 1))),
    ):
        assert not verify(problem, hostile).right
    assert verify(Problem("?", "2", "math"), "2").right  # the judge is still there, or there again


def test_a_verifiers_own_failure_is_not_the_models():
    assert verify(Problem("?", "seven", "number"), "7").score is None
    assert verify(Problem("?", "7", "oracle"), "7").score is None
    assert verify(Problem("?", "", "gym:no_such_task", {"answer": ""}), "7").score is None
    broken = reward(Problem("?", "seven", "number"), Said("hm", "7", True, False), RewardSettings())
    assert broken.accuracy is None


@pytest.mark.parametrize("task", [*TRAINED, *UNTRAINED])
def test_every_task_accepts_its_own_answer_and_worked_thoughts_end_in_it(task):
    for problem in problems(task, 3):
        assert verify(problem, answer_of(problem)).right
        if task in ("chain_sum", "products", "leg_counting", "simple_equations", "letter_counting", "count_bits"):
            assert thought_of(problem).endswith(problem.answer)
        elif task in TRAINED:
            assert thought_of(problem)


def test_splits_of_a_task_have_other_problems():
    asked = [{problem.question for problem in problems("products", 40, split=split)} for split in ("train", "test")]
    assert len(asked[0] & asked[1]) < 4
    assert [one.question for one in problems("gcd", 3)] == [one.question for one in problems("gcd", 3)]


def test_steps_of_worked_thoughts():
    assert sum_steps(47, 38) == "47 + 38 = 77 + 8 = 85"
    assert sum_steps(5, -7) == "5 - 7 = -2"
    assert product_steps(23, 47) == "23 * 47 = 23 * 40 + 23 * 7 = 920 + 161 = 1081"
    assert gsm8k_thought("He has 2+3=<<2+3=5>>5 cats.\n#### 5") == "He has 2+3=5 cats."


RUNS = "```python\ndef add(a, b):\n    return a + b\n```"
TESTS = Problem("add", "", "code", {"tests": "assert add(1, 2) == 3"})


def test_programs_are_judged_by_their_tests():
    assert judge_program(TESTS, RUNS).right
    assert judge_program(TESTS, RUNS.replace("+ b", "- b")).score == 0.0
    asks = Problem("sum", "", "code", {"tests": [{"input": "3 4", "output": "7"}, {"input": "1 1", "output": "2"}]})
    assert verify(asks, "a, b = map(int, input().split())\nprint(a + b)").right
    assert verify(asks, "print(7)").score == 0.0
    assert judge_program(Problem("?", "", "code"), RUNS).score is None
    threads = "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()\n"
    assert judge_program(TESTS, threads + "def add(a, b):\n    return a + b").right


@pytest.mark.parametrize(
    "hostile",
    [
        "import socket; socket.socket()",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['/bin/true'])",
        "import os; os.kill(os.getppid(), 9)",
        "open('/tmp/fathom-was-here', 'w')",
        "open('big', 'w').write('x' * 10**7)",
        "x = 'x' * 10**10",
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "def (",
    ],
)
def test_hostile_programs_fail(hostile):
    assert judge_program(TESTS, f"{hostile}\ndef add(a, b):\n    return a + b").score == 0.0


def test_programs_that_never_end_are_ended():
    assert judge_program(TESTS, "while True: pass", seconds=1).score == 0.0


def test_rewards_by_kind():
    problem, settings = Problem("?", "7", "number"), RewardSettings(language=0.5, length=0.2)
    right = reward(problem, Said("three and four", "The answer is 7.", True, False), settings)
    assert (right.accuracy, right.format, right.language) == (1.0, 1.0, 1.0)
    assert right.total == pytest.approx(1.6)
    open_ended = reward(problem, Said("hm", "", closed=False, cut_off=True), settings)
    assert (open_ended.accuracy, open_ended.format) == (0.0, 0.0)
    assert open_ended.total == pytest.approx(0.3)  # the language alone, less the length
    assert reward(problem, Said("hm", "7 </think> 7", True, False), settings).format == 0.0
    assert script_share("three 四", "LATIN") == pytest.approx(5 / 6)
    assert repetition("a b c d e f g h " * 10) > 0.8
    assert repetition("a few words") == 0.0


def test_published_forms_and_files(tmp_path):
    assert published({"question": "q", "answer": "x\n#### 1,200"}, "gsm8k").answer == "1200"
    assert published({"problem": "q", "answer": "x^2"}, "math").verifier == "math"
    mmlu = published({"question": "q", "choices": ["a", "b"], "answer": 1}, "mmlu")
    assert (mmlu.answer, mmlu.verifier) == ("B", "choice")
    ceval = published({"question": "q", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "C"}, "ceval")
    assert ceval.answer == "C"
    gpqa = {"Question": "q", "Correct Answer": "yes", **{f"Incorrect Answer {n}": f"no {n}" for n in (1, 2, 3)}}
    problem = published(gpqa, "gpqa")
    assert f"{problem.answer}. yes" in problem.question
    file = tmp_path / "set.jsonl"
    file.write_text('{"question": "1+1", "answer": "#### 2"}\n{"question": "2+2", "answer": "#### 4"}\n')
    assert [one.answer for one in read_problems(file)] == ["2", "4"]
    found = load_tasks(f"{file}[1:],gcd:hard", 2)
    assert [one.answer for one in found["set"]] == ["4"]
    assert len(found["gcd:hard"]) == 2
