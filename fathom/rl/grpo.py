"""The GRPO trainer: rollouts by our own engine in this process, rewards, one objective, an adapter that learns.

The engine holds the model's weights as stored and the adapter; the trainer holds the same weights in its precision and
the adapter's float32 parameters. After every step the engine is given the new adapter; nothing else moves.

M learned tokens of a micro-batch.
"""

import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fathom.checkpoints import resolve
from fathom.checkpoints.errors import DiskFullError
from fathom.engine import Engine
from fathom.engine.loading import load
from fathom.engine.policy import choose_device, choose_limits
from fathom.models.lora import Adapter
from fathom.rl.diagnosis import diagnose
from fathom.rl.grpo_recipe import GrpoRecipe
from fathom.rl.objective import advantages, mismatch, policy_loss, sampler_weights, token_weights
from fathom.rl.problems import Problem
from fathom.rl.rewards import Reward, reward
from fathom.rl.rollouts import Rollout, Sampling, generate
from fathom.rl.tasks import load_tasks
from fathom.text import chat_template
from fathom.training.anomalies import Watch
from fathom.training.checkpoint import checkpoints, read_state, remove_old
from fathom.training.errors import DivergedError, ResumeError
from fathom.training.log_probabilities import TokenLogProbabilities, log_probabilities
from fathom.training.metrics import MetricsFile
from fathom.training.objective import head_weight
from fathom.training.optimizer import AdamW, clip_scale
from fathom.training.sequences import flat_batch, padded_length
from fathom.training.sft import check_same_recipe
from fathom.training.sft_weights import attach_adapter, save_learned, trainable_model

Say = Callable[[str], None]
POLICY = "policy"
_FREE_KEYS = ("output", "steps", "checkpoints", "anomalies", "price_usd", "threads")


class Judged(NamedTuple):
    """A rollout with its reward and advantage."""

    rollout: Rollout
    reward: Reward
    advantage: float


@dataclass(frozen=True, slots=True)
class GrpoMetrics:
    """One step; shares and means are over its rollouts.

    `reward` with its kinds; `zero_advantage`: share of groups whose rewards are equal; `length`, `thought_length`: in
    tokens and characters; `mismatch`: mean |log-probability| between sampler and trainer; `entropy`: nats per token;
    `verifier_failed`: share of rollouts that nobody could judge.
    """

    step: int
    reward: float
    accuracy: float
    format: float
    language: float
    repetition: float
    cut_off: float
    verifier_failed: float
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
    skipped: str | None
    rollout_seconds: float
    training_seconds: float
    tokens_per_second: float
    cost_usd: float
    accuracy_by_task: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """One line of metrics.jsonl."""
        return {"kind": "step", **asdict(self)}


class GrpoTrainer:
    """One run of a recipe in its output folder.

    Args:
        recipe: what to do.
        base: the folder that the recipe's paths start from.
        resume: go on from the newest checkpoint.
        say: told what a person should know.

    Raises:
        ResumeError: the output holds a run and `resume` is not set, or another recipe's run.

    """

    def __init__(self, recipe: GrpoRecipe, base: Path, *, resume: bool = False, say: Say = print) -> None:
        self.recipe, self.say = recipe, say
        self.output = base / recipe.output
        self._checkpoints = self.output / "checkpoints"
        existing = checkpoints(self._checkpoints)
        if existing and not resume:
            raise ResumeError(f"{self.output} holds a run already: add --resume, or choose another output")
        self.pools = [_pool(source.task, source.count, base) for source in recipe.sources]
        ref = str(base / recipe.model) if (base / recipe.model).exists() else recipe.model
        self.model, _ = trainable_model(resolve(ref), recipe.precision, full=False)
        self.learned = attach_adapter(self.model, recipe.lora, base, recipe.seed)
        self.optimizer = AdamW(self.learned.weights, recipe.optimizer)
        self.reference = {name: weight.clone() for name, weight in self.learned.weights.items()}
        self.watch = Watch(recipe.anomalies)
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, Any]] = []
        if existing:
            self._load(existing[-1])
            say(f"going on from {existing[-1].name}")
        self.engine = open_engine(ref, recipe)
        self.engine.add_adapter(POLICY, self.policy())

    def policy(self) -> Adapter:
        """The adapter as it is now."""
        return self.learned.training.adapter()

    def run(self, on_step: Callable[[GrpoMetrics], None] = lambda _metrics: None) -> Path:
        """Train to the end of the recipe's steps and return the last checkpoint."""
        metrics_file = MetricsFile(self.output / "metrics.jsonl", self.step)
        samples_file = MetricsFile(self.output / "samples.jsonl", self.step)
        try:
            while self.step < self.recipe.steps:
                metrics, judged = self.take_step()
                line = metrics.to_json()
                self.history.append(line)
                metrics_file.write(line)
                for sample in _side_by_side(judged):
                    samples_file.write({"step": metrics.step, **sample})
                on_step(metrics)
                if metrics.step % 10 == 9:
                    for sentence in diagnose(self.history):
                        self.say(sentence)
                if self.step >= self.recipe.steps or self.step % self.recipe.checkpoints.every == 0:
                    self._save()
        finally:
            metrics_file.close()
            samples_file.close()
        return checkpoints(self._checkpoints)[-1]

    def close(self) -> None:
        """End the engine."""
        self.engine.close()

    def take_step(self) -> tuple[GrpoMetrics, list[list[Judged]]]:
        """Sample, judge, learn, and hand the engine the new weights."""
        start = time.perf_counter()
        recipe = self.recipe
        sampling = Sampling(recipe.max_tokens, recipe.temperature, adapter=POLICY, logprobs=True, style="think")
        seed = recipe.seed * 100_003 + self.step
        groups = generate(self.engine, self.questions(self.step), recipe.group_size, sampling, seed)
        judged = [judge_group(group, recipe) for group in groups]
        rolled = time.perf_counter()
        outcome = self._learn(judged)
        self.engine.update_adapter(POLICY, self.policy())
        every = recipe.objective.reference_every
        self.step += 1
        if every and self.step % every == 0:
            self.reference = {name: weight.clone() for name, weight in self.learned.weights.items()}
        end = time.perf_counter()
        self.seconds += end - start
        metrics = self._metrics(judged, outcome, rolled - start, end - rolled)
        return metrics, judged

    def questions(self, step: int) -> list[Problem]:
        """The problems of a step: drawn from seed and step alone, so that a resumed run asks the same."""
        draw = random.Random(f"{self.recipe.seed} {step}")
        weights = [source.weight for source in self.recipe.sources]
        chosen = draw.choices(self.pools, weights, k=self.recipe.questions)
        return [draw.choice(pool) for pool in chosen]

    def _learn(self, judged: Sequence[Sequence[Judged]]) -> "_Outcome":
        """Update the weights from one step's groups, in minibatches of whole groups."""
        outcome = _Outcome()
        parts = [list(judged[start :: self.recipe.minibatches]) for start in range(self.recipe.minibatches)]
        old = [self._score([one for group in part for one in group]) for part in parts] if len(parts) > 1 else [None]
        for part, old_logprobs in zip(parts, old, strict=True):
            self._update([one for group in part for one in group], old_logprobs, outcome)
        return outcome

    def _update(self, judged: list[Judged], old: "list[Tensor] | None", outcome: "_Outcome") -> None:
        settings, recipe = self.recipe.objective, self.recipe
        lengths = [len(one.rollout.tokens) for one in judged]
        weights = token_weights(lengths, settings.normalise, recipe.max_tokens)
        teaching = [place for place, one in enumerate(judged) if one.advantage != 0.0 or settings.beta > 0]
        total = 0.0
        for places in _micro_batches([judged[place].rollout for place in teaching], recipe.micro_tokens):
            chosen = [teaching[place] for place in places]
            rollouts = [judged[place].rollout for place in chosen]
            # Before the policy's forward: its numbers take the place of the learned ones, which autograd would notice.
            reference_M = self._reference_log_probabilities(rollouts) if settings.beta else None
            new = self._log_probabilities(rollouts)
            sizes = [len(rollout.tokens) for rollout in rollouts]
            detached = new.chosen_M.detach()
            sampler_M = torch.tensor([math.nan if p is None else p for one in rollouts for p in one.logprobs])
            if recipe.temperature != 1.0:
                # The sampler reports the model's own distribution; what was sampled from is sharper.
                sampler_M = torch.full_like(sampler_M, math.nan)
            old_M = detached if old is None else torch.cat([old[place] for place in chosen])
            cap = settings.importance_cap
            importance_M = sampler_weights(old_M, sampler_M, cap) if cap else None
            result = policy_loss(
                new.chosen_M,
                old_M,
                _spread([judged[place].advantage for place in chosen], sizes),
                _spread([weights[place] for place in chosen], sizes),
                clip_low=settings.clip_low,
                clip_high=settings.clip_high,
                reference_M=reference_M,
                beta=settings.beta,
                importance_M=importance_M,
            )
            result.loss.backward()  # type: ignore[no-untyped-call]
            self.learned.collect()
            total += float(result.loss.detach())
            outcome.add(sum(sizes), result.clipped, result.kl, new.entropy_M.mean(), *mismatch(old_M, sampler_M))
        norm = self.learned.gradient_norm()
        outcome.rate = recipe.rate * min(1.0, (self.step + 1) / max(1, recipe.warmup_steps))
        outcome.loss, outcome.norm = outcome.loss + total, float(norm)
        if outcome.tokens and outcome.mismatch > settings.mismatch_stop:
            raise DivergedError(
                f"step {self.step}: sampler and trainer differ by {outcome.mismatch:.3f} nats a token, above "
                f"objective.mismatch_stop={settings.mismatch_stop}; load both from the same weights and formats"
            )
        # GRPO's loss is near 0 by construction, so only what is not finite is an anomaly.
        outcome.skipped = self.watch.judge(
            self.step, range(len(judged)), 1.0 if math.isfinite(total) else total, float(norm)
        )
        if outcome.skipped is None and teaching:
            scale = clip_scale(norm, recipe.optimizer.clip)
            self.optimizer.step(self.learned.gradients, outcome.rate, scale)
            self.learned.publish()
        else:
            self.learned.discard()

    def _log_probabilities(self, rollouts: Sequence[Rollout]) -> TokenLogProbabilities:
        """Of every sampled token of the rollouts, one after another, at the temperature of sampling."""
        batch = flat_batch([(*rollout.prompt, *rollout.tokens[:-1]) for rollout in rollouts])
        rows: list[int] = []
        for start, rollout in zip(batch.starts, rollouts, strict=True):
            first = start + len(rollout.prompt) - 1
            rows += range(first, first + len(rollout.tokens))
        targets_M = torch.tensor([token for rollout in rollouts for token in rollout.tokens])
        hidden_ND = self.model(batch.tokens_N, batch.positions_N, batch.cache())
        hidden_MD = hidden_ND[torch.tensor(rows)]
        return log_probabilities(hidden_MD, head_weight(self.model), targets_M, self.recipe.temperature)

    @torch.no_grad()
    def _score(self, judged: Sequence[Judged]) -> list[Tensor]:
        """Log-probabilities by rollout under the weights as they are."""
        scores: list[Tensor] = [torch.empty(0)] * len(judged)
        rollouts = [one.rollout for one in judged]
        for places in _micro_batches(rollouts, self.recipe.micro_tokens):
            chosen = [rollouts[place] for place in places]
            parts = torch.split(self._log_probabilities(chosen).chosen_M, [len(one.tokens) for one in chosen])
            for place, part in zip(places, parts, strict=True):
                scores[place] = part
        return scores

    @torch.no_grad()
    def _reference_log_probabilities(self, rollouts: Sequence[Rollout]) -> Tensor:
        """Under the reference: its numbers take the place of the learned ones for one forward."""
        kept = {name: weight.clone() for name, weight in self.learned.weights.items()}
        self._fill(self.reference)
        try:
            return self._log_probabilities(rollouts).chosen_M
        finally:
            self._fill(kept)

    def _fill(self, numbers: dict[str, Tensor]) -> None:
        for name, weight in self.learned.weights.items():
            weight.copy_(numbers[name])

    def _metrics(
        self, groups: Sequence[Sequence[Judged]], outcome: "_Outcome", rollout_seconds: float, training_seconds: float
    ) -> GrpoMetrics:
        judged = [one for group in groups for one in group]
        count = len(judged)
        tokens = sum(len(one.rollout.tokens) for one in judged)
        by_task: dict[str, list[float]] = {}
        for one in judged:
            by_task.setdefault(one.rollout.problem.task, []).append(one.reward.accuracy or 0.0)
        return GrpoMetrics(
            step=self.step - 1,
            reward=sum(one.reward.total for one in judged) / count,
            accuracy=sum(one.reward.accuracy or 0.0 for one in judged) / count,
            format=sum(one.reward.format for one in judged) / count,
            language=sum(one.reward.language for one in judged) / count,
            repetition=sum(one.reward.repetition for one in judged) / count,
            cut_off=sum(one.reward.cut_off for one in judged) / count,
            verifier_failed=sum(one.reward.accuracy is None for one in judged) / count,
            zero_advantage=sum(all(one.advantage == 0.0 for one in group) for group in groups) / len(groups),
            length=tokens / count,
            thought_length=sum(len(one.rollout.said.thought) for one in judged) / count,
            loss=outcome.loss,
            gradient_norm=outcome.norm,
            learning_rate=outcome.rate,
            entropy=outcome.entropy,
            kl=outcome.kl,
            clipped=outcome.clipped,
            mismatch=outcome.mismatch,
            mismatch_largest=outcome.mismatch_largest,
            mismatch_kl=outcome.mismatch_kl,
            skipped=outcome.skipped,
            rollout_seconds=rollout_seconds,
            training_seconds=training_seconds,
            tokens_per_second=tokens / (rollout_seconds + training_seconds),
            cost_usd=self.seconds / 3600 * self.recipe.price_usd,
            accuracy_by_task={task: sum(values) / len(values) for task, values in by_task.items()},
        )

    def _save(self) -> None:
        state = {
            "recipe": self.recipe.to_json(),
            "updates": self.optimizer.updates,
            "recent_losses": list(self.watch.recent),
            "skipped": self.watch.skipped,
            "seconds": self.seconds,
            "history": self.history[-10:],
        }
        model = self.recipe.model
        try:
            save_learned(
                self._checkpoints, self.step, self.model, self.learned, model, self.output, state, self._tensors()
            )
        except DiskFullError as error:
            if self.step >= self.recipe.steps:
                raise
            self.say(f"no checkpoint at step {self.step}: {error} (the run goes on)")
            return
        remove_old(self._checkpoints, self.recipe.checkpoints.keep)

    def _load(self, checkpoint: Path) -> None:
        state, tensors = read_state(checkpoint)
        check_same_recipe(self.recipe.to_json(), state["recipe"], checkpoint, _FREE_KEYS)
        for name, tensor in self._tensors().items():
            tensor.copy_(tensors.tensor(name))
        self._fill({name: tensors.tensor(f"weight.{name}") for name in self.learned.weights})
        self.optimizer.updates = state["updates"]
        self.watch = Watch(self.recipe.anomalies, state["recent_losses"], state["skipped"])
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]

    def _tensors(self) -> dict[str, Tensor]:
        return self.optimizer.moments | {f"reference.{name}": tensor for name, tensor in self.reference.items()}


@dataclass(slots=True)
class _Outcome:
    """What the updates of one step were like: means over the tokens that taught."""

    tokens: int = 0
    clipped: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    mismatch: float = 0.0
    mismatch_largest: float = 0.0
    mismatch_kl: float = 0.0
    loss: float = 0.0
    norm: float = 0.0
    rate: float = 0.0
    skipped: str | None = None

    def add(
        self, tokens: int, clipped: Tensor, kl: Tensor, entropy: Tensor, mean: float, largest: float, divergence: float
    ) -> None:
        """Take one micro-batch into the means."""
        share = tokens / (self.tokens + tokens)
        self.tokens += tokens
        self.clipped += share * (float(clipped) - self.clipped)
        self.kl += share * (float(kl) - self.kl)
        self.entropy += share * (float(entropy) - self.entropy)
        self.mismatch += share * (mean - self.mismatch)
        self.mismatch_kl += share * (divergence - self.mismatch_kl)
        self.mismatch_largest = max(self.mismatch_largest, largest)


def judge_group(group: Sequence[Rollout], recipe: GrpoRecipe) -> list[Judged]:
    """Rewards and advantages of one group. A rollout that nobody could judge takes no part: advantage 0."""
    rewards = [reward(rollout.problem, rollout.said, recipe.rewards) for rollout in group]
    parts = [
        place
        for place, one in enumerate(rewards)
        if one.accuracy is not None and not (recipe.objective.mask_cut_off and one.cut_off)
    ]
    values = [0.0] * len(group)
    if len(parts) > 1:
        totals = [rewards[place].total for place in parts]
        for place, value in zip(parts, advantages(totals, recipe.objective.scale), strict=True):
            values[place] = value
    return [Judged(*one) for one in zip(group, rewards, values, strict=True)]


def open_engine(ref: str, recipe: GrpoRecipe) -> Engine:
    """The engine that samples, with the recipe's dialect and system message."""
    dtype = recipe.precision if recipe.runner == "torch" else "auto"
    # What goes by measured times (drafts, smaller chunks beside decodes) would batch differently from run to run, and
    # with that change the last bits.
    limits = replace(choose_limits(choose_device("auto")[0]), stretch=0.0)
    engine = load(ref, runner=recipe.runner, dtype=dtype, threads=recipe.threads, limits=limits, speculation="off")
    if recipe.dialect is not None:
        engine.template = chat_template(engine.tokenizer, dialect=recipe.dialect)
    if recipe.system is not None:
        engine.defaults = replace(engine.defaults, system=recipe.system)
    return engine


def _pool(task: str, count: int, base: Path) -> list[Problem]:
    limit = None if ".jsonl" in task else count
    return [problem for found in load_tasks(task, limit, split="train", base=base).values() for problem in found]


def _spread(values: Sequence[float], sizes: Sequence[int]) -> Tensor:
    """One value per rollout to one per token."""
    return torch.repeat_interleave(torch.tensor(values, dtype=torch.float32), torch.tensor(sizes))


def _micro_batches(rollouts: Sequence[Rollout], tokens: int) -> list[list[int]]:
    """Places of rollouts in parts of at most `tokens` rows (or one rollout), neighbours in length together."""
    sizes = [len(rollout.prompt) + len(rollout.tokens) - 1 for rollout in rollouts]
    parts: list[list[int]] = []
    for place in sorted(range(len(sizes)), key=lambda one: -sizes[one]):
        if parts and padded_length([*(sizes[one] for one in parts[-1]), sizes[place]]) <= tokens:
            parts[-1].append(place)
        else:
            parts.append([place])
    return parts


def _side_by_side(groups: Sequence[Sequence[Judged]]) -> list[dict[str, Any]]:
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
