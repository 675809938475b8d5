"""Report cards: pass@1 with standard errors, votes, lengths, per task and model; as a table, JSON and a chart."""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fathom.engine import Engine
from fathom.rl.problems import Problem
from fathom.rl.rollouts import Rollout, Sampling, few_shots, generate
from fathom.rl.tasks import solved_examples
from fathom.rl.verifiers import Verdict, final_answer, verify


@dataclass(frozen=True, slots=True)
class TaskScore:
    """One task. `pass_at_1`: mean over problems of the share of right samples; `standard_error`: of that mean, over
    problems (samples of one problem are not independent). `cons_at_k`: share of problems whose most frequent final
    answer is right. `failed`: samples that the verifier could not judge, left out of all of these.
    """

    task: str
    problems: int
    samples: int
    pass_at_1: float
    standard_error: float
    cons_at_k: float
    closed: float
    mean_tokens: float
    failed: int
    tokens_per_right: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """All tasks of one model under one way of asking."""

    model: str
    adapter: str | None
    style: str
    tasks: tuple[TaskScore, ...]
    seconds: float
    tokens: int

    @property
    def mean(self) -> tuple[float, float]:
        """Mean over tasks and its standard error (tasks weigh the same and are independent)."""
        scores = [task.pass_at_1 for task in self.tasks]
        error = math.sqrt(sum(task.standard_error**2 for task in self.tasks)) / max(1, len(scores))
        return sum(scores) / max(1, len(scores)), error

    def to_json(self) -> dict[str, Any]:
        """Everything, with the mean."""
        mean, error = self.mean
        return {**asdict(self), "mean_pass_at_1": mean, "mean_standard_error": error}


def evaluate(
    engine: Engine,
    tasks: Mapping[str, Sequence[Problem]],
    *,
    samples: int,
    sampling: Sampling,
    seed: int = 0,
    lenient: bool = False,
    say: Any = lambda _text: None,
) -> Report:
    """Sample, judge and sum up; `lenient` also takes the last line or the last number of an answer for what it says.

    Prompts in few-shot style get three solved examples of the task's training split, where it has one.
    """
    start, scores, tokens = time.perf_counter(), [], 0
    for name, questions in tasks.items():
        shots = few_shots(solved_examples(name)) if sampling.style == "few-shot" and solved_examples(name) else []
        groups = generate(engine, questions, samples, sampling, seed, shots)
        score = score_task(name, groups, lenient=lenient)
        tokens += sum(len(rollout.tokens) for group in groups for rollout in group)
        scores.append(score)
        say(f"{name:26} {score.pass_at_1:6.1%} +- {1.96 * score.standard_error:.1%}  cons {score.cons_at_k:6.1%}")
    seconds = time.perf_counter() - start
    return Report(engine.model_name, sampling.adapter, sampling.style, tuple(scores), seconds, tokens)


def score_task(name: str, groups: Sequence[Sequence[Rollout]], *, lenient: bool = False) -> TaskScore:
    """Judge the groups of one task."""
    shares, votes, failed, right = [], [], 0, 0
    rollouts = [rollout for group in groups for rollout in group]
    for group in groups:
        verdicts = [judge(rollout, lenient=lenient) for rollout in group]
        judged = [verdict for verdict in verdicts if verdict.score is not None]
        failed += len(verdicts) - len(judged)
        if not judged:
            continue
        shares.append(sum(verdict.right for verdict in judged) / len(judged))
        right += sum(verdict.right for verdict in judged)
        said = [final_answer(rollout.said.answer) if rollout.said.closed else "" for rollout in group]
        favourite = Counter(answer for answer in said if answer).most_common(1)
        chosen = said.index(favourite[0][0]) if favourite else 0
        votes.append(verdicts[chosen].right)
    count = len(shares)
    mean = sum(shares) / count if count else 0.0
    spread = sum((share - mean) ** 2 for share in shares) / (count - 1) if count > 1 else 0.0
    tokens = sum(len(rollout.tokens) for rollout in rollouts)
    return TaskScore(
        task=name,
        problems=len(groups),
        samples=len(groups[0]) if groups else 0,
        pass_at_1=mean,
        standard_error=math.sqrt(spread / count) if count else 0.0,
        cons_at_k=sum(votes) / len(votes) if votes else 0.0,
        closed=sum(rollout.said.closed and not rollout.said.cut_off for rollout in rollouts) / max(1, len(rollouts)),
        mean_tokens=tokens / max(1, len(rollouts)),
        failed=failed,
        tokens_per_right=tokens / right if right else None,
    )


def judge(rollout: Rollout, *, lenient: bool) -> Verdict:
    """Whether one rollout is right; leniently: whether any usual reading of it is."""
    if not rollout.said.closed:
        return Verdict(0.0, "the thought never ended")
    first = verify(rollout.problem, rollout.said.answer)
    lines = [line for line in rollout.said.answer.splitlines() if line.strip()]
    if not lenient or first.right or not lines:
        return first
    last = lines[-1].strip().rstrip(".")
    readings = [last, last.rpartition(" ")[2], last.rpartition("= ")[2], last.rpartition(": ")[2], lines[0].strip()]
    verdicts = [verify(rollout.problem, reading) for reading in dict.fromkeys(readings)]
    return next((verdict for verdict in verdicts if verdict.right), first)


def table(reports: Mapping[str, Report]) -> list[str]:
    """Reports side by side in Markdown, with 95 % intervals."""
    names = list(dict.fromkeys(task.task for report in reports.values() for task in report.tasks))
    lines = [f"| task | {' | '.join(reports)} |", f"|---|{'---|' * len(reports)}"]
    for name in names:
        cells = []
        for report in reports.values():
            score = next((task for task in report.tasks if task.task == name), None)
            cells.append("-" if score is None else f"{score.pass_at_1:.1%} ± {1.96 * score.standard_error:.1%}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    means = [report.mean for report in reports.values()]
    lines.append("| **mean** | " + " | ".join(f"**{mean:.1%} ± {1.96 * error:.1%}**" for mean, error in means) + " |")
    return lines


def chart(reports: Mapping[str, Report], file: Path) -> None:
    """Draw the reports as grouped bars with 95 % intervals (needs matplotlib: pip install fathom-llm[report])."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(task.task for report in reports.values() for task in report.tasks))
    figure, axes = pyplot.subplots(figsize=(max(6.0, 0.9 * len(names)), 4.0), layout="constrained")
    width = 0.8 / len(reports)
    for index, (label, report) in enumerate(reports.items()):
        by_name = {task.task: task for task in report.tasks}
        places = [place + index * width for place, name in enumerate(names) if name in by_name]
        shown = [by_name[name] for name in names if name in by_name]
        errors = [1.96 * task.standard_error for task in shown]
        axes.bar(places, [task.pass_at_1 for task in shown], width, yerr=errors, capsize=2, label=label)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(names))], names, rotation=40, ha="right")
    axes.set_ylabel("pass@1")
    axes.set_ylim(0, 1)
    axes.legend()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
