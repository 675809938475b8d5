"""What is wrong with a run, in words: the questions that people ask of flat curves, answered from the metrics."""

from collections.abc import Sequence
from typing import Any

WINDOW = 10


def diagnose(history: Sequence[dict[str, Any]]) -> list[str]:
    """Sentences about the last steps of `history` (lines of metrics.jsonl); empty while nothing is the matter."""
    recent = list(history[-WINDOW:])
    if len(recent) < WINDOW:
        return []

    def mean(key: str) -> float:
        return sum(float(line[key]) for line in recent) / len(recent)

    found = []
    silent, accuracy = mean("zero_advantage"), mean("accuracy")
    if silent > 0.8 and accuracy < 0.05:
        found.append(
            f"{silent:.0%} of the groups teach nothing because no rollout of them is right: the problems are too hard. "
            "Take easier ones, a longer cold start, larger groups, or more max_tokens."
        )
    elif silent > 0.8 and accuracy > 0.95:
        found.append(
            f"{silent:.0%} of the groups teach nothing because all of their rollouts are right: take harder problems."
        )
    elif silent > 0.8:
        found.append(
            f"{silent:.0%} of the groups have equal rewards and teach nothing: mix the difficulty, or raise group_size "
            "or the temperature."
        )
    if mean("entropy") < 0.02:
        found.append(
            "The policy hardly varies any more (entropy below 0.02): raise the temperature or clip_high, or lower the "
            "learning rate; what it does not try it cannot learn."
        )
    if mean("cut_off") > 0.3:
        found.append(
            f"{mean('cut_off'):.0%} of the outputs are cut off at max_tokens: raise it, or set rewards.length above 0."
        )
    if mean("mismatch") > 0.1:
        found.append(
            f"Sampler and trainer differ by {mean('mismatch'):.2f} nats a token: a coarser quantisation in the sampler "
            "than in the trainer? Load both from the same weights, or lower objective.importance_cap."
        )
    if mean("verifier_failed") > 0.05:
        found.append(f"{mean('verifier_failed'):.0%} of the rollouts could not be judged; samples.jsonl says why.")
    if mean("clipped") > 0.3:
        found.append("Over 30 % of the tokens are clipped: the steps are too large; lower the learning rate.")
    return found
