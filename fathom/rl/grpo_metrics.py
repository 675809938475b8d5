"""What a GRPO run tells about a step: numbers for curves, and samples to read."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from fathom.rl.collector import Judged
from fathom.rl.objective import Mismatch


@dataclass(frozen=True, slots=True)
class GrpoMetrics:
    """One step; shares and means are over its rollouts.

    `reward` with its kinds; `zero_advantage`: share of groups whose rewards are equal; `length`, `thought_length`: in
    tokens and characters; `mismatch`: mean |log-probability| between sampler and trainer where both had the same
    weights; `drift`: the same where the sampler's were older, `staleness` updates older on average; `waiting`: groups
    that go on in the next step; `entropy`: nats per token; `verifier_failed`: share of rollouts that nobody could
    judge; `rollout_seconds`: what drawing took, of which the learner waited `waited_seconds`.
    """

    step: int
    reward: float
    accuracy: float
    format: float
    language: float
    repetition: float
    cut_off: float
    verifier_failed: float
    groups: int
    zero_advantage: float
    length: float
    thought_length: float
    loss: float
    gradient_norm: float
    learning_rate: float
    entropy: float
    kl: float
    clipped: float
    mismatch: float
    mismatch_largest: float
    mismatch_kl: float
    staleness: float
    drift: float
    waiting: int
    skipped: str | None
    rollout_seconds: float
    waited_seconds: float
    training_seconds: float
    tokens_per_second: float
    cost_usd: float
    accuracy_by_task: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """One line of metrics.jsonl."""
        return {"kind": "step", **asdict(self)}


@dataclass(slots=True)
class Outcome:
    """What the updates of one step were like: means over the tokens that taught."""

    tokens: int = 0
    clipped: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    mismatch: float = 0.0
    mismatch_largest: float = 0.0
    mismatch_kl: float = 0.0
    drift: float = 0.0
    loss: float = 0.0
    norm: float = 0.0
    rate: float = 0.0
    skipped: str | None = None

    def add(self, tokens: int, clipped: Tensor, kl: Tensor, entropy: Tensor, fresh: Mismatch, stale: Mismatch) -> None:
        """Take one micro-batch into the means; `fresh`, `stale`: on tokens of this policy and of older ones."""
        part = Outcome(
            tokens, float(clipped), float(kl), float(entropy), fresh.mean, fresh.largest, fresh.kl, stale.mean
        )
        self.merge(part)

    def merge(self, other: Self) -> None:
        """Take another part of the same step into the means."""
        if not other.tokens:
            return
        share = other.tokens / (self.tokens + other.tokens)
        self.tokens += other.tokens
        for name in ("clipped", "kl", "entropy", "mismatch", "mismatch_kl", "drift"):
            mine = getattr(self, name)
            setattr(self, name, mine + share * (getattr(other, name) - mine))
        self.mismatch_largest = max(self.mismatch_largest, other.mismatch_largest)


def summed_up(groups: Sequence[Sequence[Judged]], step: int) -> dict[str, Any]:
    """The metrics that rollouts and rewards alone decide."""
    judged = [one for group in groups for one in group]
    count = len(judged)
    tokens = sum(len(one.rollout.tokens) for one in judged)
    by_task: dict[str, list[float]] = {}
    for one in judged:
        by_task.setdefault(one.rollout.problem.task, []).append(one.reward.accuracy or 0.0)
    age = sum(step - version for one in judged for version in one.rollout.versions)
    return {
        "step": step,
        "reward": sum(one.reward.total for one in judged) / count,
        "accuracy": sum(one.reward.accuracy or 0.0 for one in judged) / count,
        "format": sum(one.reward.format for one in judged) / count,
        "language": sum(one.reward.language for one in judged) / count,
        "repetition": sum(one.reward.repetition for one in judged) / count,
        "cut_off": sum(one.reward.cut_off for one in judged) / count,
        "verifier_failed": sum(one.reward.accuracy is None for one in judged) / count,
        "groups": len(groups),
        "zero_advantage": sum(all(one.advantage == 0.0 for one in group) for group in groups) / len(groups),
        "length": tokens / count,
        "thought_length": sum(len(one.rollout.said.thought) for one in judged) / count,
        "staleness": age / max(1, tokens),
        "accuracy_by_task": {task: sum(values) / len(values) for task, values in by_task.items()},
    }


def side_by_side(groups: Sequence[Sequence[Judged]]) -> list[dict[str, Any]]:
    """The best and the worst rollout of the first group that taught something, for people to read."""
    for group in groups:
        if any(one.advantage for one in group):
            ordered = sorted(group, key=lambda one: one.reward.total)
            return [
                {
                    "question": one.rollout.problem.question,
                    "right_answer": one.rollout.problem.answer,
                    "thought": one.rollout.said.thought,
                    "answer": one.rollout.said.answer,
                    "reward": one.reward.total,
                    "advantage": one.advantage,
                    "why": one.reward.why,
                }
                for one in (ordered[-1], ordered[0])
            ]
    return []


def metrics_of(file: Path) -> list[dict[str, Any]]:
    """The step lines of a run's metrics.jsonl."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line.get("kind") == "step"]
