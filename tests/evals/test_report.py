import json
import math

import pytest

from fathom.cli.main import main
from fathom.evals.report import Report, chart, score_task, table
from fathom.rl.problems import Problem
from fathom.rl.rewards import Said
from fathom.rl.rollouts import Rollout


def rollout(right: str, answer: str, *, closed: bool = True, tokens: int = 10) -> Rollout:
    said = Said("hm", answer, closed=closed, cut_off=not closed)
    return Rollout(Problem("?", right, "number"), (1,), (2,) * tokens, (None,) * tokens, said)


def test_scores_are_means_over_problems_with_errors_over_problems():
    groups = [
        [rollout("7", "7"), rollout("7", "7"), rollout("7", "8"), rollout("7", "9")],
        [rollout("5", "5"), rollout("5", "4"), rollout("5", "4"), rollout("5", "5", closed=False)],
    ]
    score = score_task("sums", groups)
    assert score.pass_at_1 == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert score.standard_error == pytest.approx(math.sqrt(((0.125**2) * 2) / 1 / 2))
    assert score.cons_at_k == 0.5  # 7 wins its vote, 4 wins over 5
    assert score.closed == 7 / 8
    assert score.tokens_per_right == pytest.approx(80 / 3)


def test_what_the_verifier_cannot_judge_counts_for_nothing():
    score = score_task(
        "broken", [[rollout("seven", "7"), rollout("seven", "8")], [rollout("1", "1"), rollout("1", "2")]]
    )
    assert (score.failed, score.pass_at_1) == (2, 0.5)


def test_lenient_reading_finds_answers_in_the_last_line():
    groups = [[rollout("7", "Three and four make\n= 7 apples, as 2 < 3")]]
    assert score_task("sums", groups).pass_at_1 == 0.0
    groups = [[rollout("7", "The answer is near.\nSo it is 7")]]
    assert score_task("sums", groups, lenient=True).pass_at_1 == 1.0


def test_table_and_chart(tmp_path):
    score = score_task("sums", [[rollout("7", "7")], [rollout("7", "8")]])
    report = Report("m", None, "think", (score,), 1.0, 20)
    assert table({"A": report, "B": report})[2].startswith("| sums | 50.0% ± ")
    assert report.to_json()["mean_pass_at_1"] == 0.5
    chart({"A": report, "B": report}, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 1000


def test_the_command_reports_on_the_default_model(tmp_path, capsys):
    file = tmp_path / "capitals.jsonl"
    file.write_text(json.dumps({"question": "Say yes.", "answer": "yes", "verifier": "exact"}) + "\n")
    command = ["eval", "smollm2:135m", "--tasks", str(file), "--samples", "2", "--max-tokens", "8", "--style", "plain"]
    assert main([*command, "--threads", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert report["tasks"][0]["problems"] == 1
    assert report["tasks"][0]["samples"] == 2
    assert main(["eval", "smollm2:135m", "--tasks", "no_such_task"]) == 1
