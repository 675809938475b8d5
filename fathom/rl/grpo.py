"""The GRPO trainer: rollouts by our own engine in this process, rewards, one objective, an adapter that learns.

The engine holds the model's weights as stored and the adapter; the trainer holds the same weights in its precision and
the adapter's float32 parameters. After every step the engine is given the new adapter; nothing else moves. Rollouts may
be drawn some steps ahead by a thread beside (`Pipeline`).

M learned tokens of a micro-batch.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.checkpoints import open_checkpoint, resolve
from fathom.checkpoints.errors import DiskFullError
from fathom.engine import Engine
from fathom.engine.defaults import read_defaults
from fathom.engine.loading import load, read_template, read_tokenizer
from fathom.engine.policy import choose_device, choose_limits
from fathom.models.adapter import Adapter
from fathom.models.transformer import Transformer
from fathom.rl.collector import Collected, Collector, Judged, Voice
from fathom.rl.diagnosis import diagnose
from fathom.rl.grpo_metrics import GrpoMetrics, Outcome, side_by_side, summed_up
from fathom.rl.grpo_recipe import GrpoRecipe
from fathom.rl.objective import mismatch, policy_loss, sampler_weights, token_weights
from fathom.rl.pipeline import Pipeline
from fathom.rl.problems import Problem
from fathom.rl.rollouts import Rollout
from fathom.rl.samplers import EngineSampler
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
_FREE_KEYS = ("output", "steps", "checkpoints", "anomalies", "price_usd", "threads")


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
        drawn = self._load(existing[-1]) if existing else {}
        if existing:
            say(f"going on from {existing[-1].name}")
        self.sampler = EngineSampler(open_engine(ref, recipe))
        self.collector = Collector(recipe, self.pools, voice_of(ref, recipe), self.sampler)
        if drawn:
            self.collector.load_state(drawn["collector"])
        ready = [self.collector.unpack(one) for one in drawn.get("ready", ())]
        self.pipeline = Pipeline(self.collector, self.sampler, ready)

    @property
    def rate(self) -> float:
        """The learning rate of the next update."""
        return self.recipe.rate * min(1.0, (self.step + 1) / max(1, self.recipe.warmup_steps))

    def policy(self) -> Adapter:
        """The adapter as it is now, not as it will be."""
        now = self.learned.training.adapter()
        return Adapter(now.scale, {name: (a.clone(), b.clone()) for name, (a, b) in now.pairs.items()})

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
                for sample in side_by_side(judged):
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
        """End the rollouts and the engine."""
        self.pipeline.close()
        self.sampler.close()

    def take_step(self) -> tuple[GrpoMetrics, list[list[Judged]]]:
        """Have batches drawn as far ahead as the recipe allows, take the next one, and learn from it."""
        start = time.perf_counter()
        last = max(self.step + 1, min(self.step + 1 + self.recipe.rollouts.ahead, self.recipe.steps))
        while self.step + len(self.pipeline) < last:
            self.pipeline.request(self.step, self.policy())
        collected = self.pipeline.take()
        taken = time.perf_counter()
        outcome = self._learn(collected.groups)
        every = self.recipe.objective.reference_every
        self.step += 1
        if every and self.step % every == 0:
            self.reference = {name: weight.clone() for name, weight in self.learned.weights.items()}
        end = time.perf_counter()
        self.seconds += end - start
        return self._metrics(collected, outcome, taken - start, end - taken), collected.groups

    def _learn(self, judged: Sequence[Sequence[Judged]]) -> Outcome:
        """Update the weights from one step's groups, in minibatches of whole groups."""
        outcome = Outcome()
        if self.recipe.rollouts.extra_waves:  # the groups that were drawn in place of silent ones stand for them
            judged = [group for group in judged if any(one.advantage for one in group)] or judged
        count = min(self.recipe.minibatches, len(judged))
        parts = [list(judged[start::count]) for start in range(count)]
        old = [self._score([one for group in part for one in group]) for part in parts] if len(parts) > 1 else [None]
        for part, old_logprobs in zip(parts, old, strict=True):
            self._update([one for group in part for one in group], old_logprobs, outcome)
        return outcome

    def _update(self, judged: list[Judged], old: list[Tensor] | None, outcome: Outcome) -> None:
        settings, recipe = self.recipe.objective, self.recipe
        lengths = [len(one.rollout.tokens) for one in judged]
        weights = token_weights(lengths, settings.normalise, recipe.max_tokens)
        teaching = [place for place, one in enumerate(judged) if one.advantage != 0.0 or settings.beta > 0]
        total = 0.0
        for places in micro_batches([judged[place].rollout for place in teaching], recipe.micro_tokens):
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
            stale_M = torch.tensor([version < self.step for one in rollouts for version in one.versions])
            fresh, stale = (mismatch(old_M, sampler_M.masked_fill(mask, math.nan)) for mask in (stale_M, ~stale_M))
            outcome.add(sum(sizes), result.clipped, result.kl, new.entropy_M.mean(), fresh, stale)
        norm = self.learned.gradient_norm()
        outcome.rate = self.rate
        outcome.loss, outcome.norm = outcome.loss + total, float(norm)
        if outcome.tokens and outcome.mismatch > settings.mismatch_stop:
            raise DivergedError(
                f"step {self.step}: sampler and trainer differ by {outcome.mismatch:.3f} nats a token, above "
                f"objective.mismatch_stop={settings.mismatch_stop}; load both from the same weights and formats"
            )
        # GRPO's loss is near 0 by construction, so only what is not finite is an anomaly.
        self._move(len(judged), 1.0 if math.isfinite(total) else total, norm, outcome, nothing=not teaching)

    def _move(self, rollouts: int, loss: float, norm: Tensor, outcome: Outcome, *, nothing: bool = False) -> None:
        """Take the step that the gradients say, unless it is an anomaly or there was `nothing` to learn."""
        outcome.skipped = self.watch.judge(self.step, range(rollouts), loss, float(norm))
        if outcome.skipped is None and not nothing:
            scale = clip_scale(norm, self.recipe.optimizer.clip)
            self.optimizer.step(self.learned.gradients, outcome.rate, scale)
            self.learned.publish()
        else:
            self.learned.discard()

    def _log_probabilities(self, rollouts: Sequence[Rollout]) -> TokenLogProbabilities:
        """Of every sampled token of the rollouts, one after another, at the temperature of sampling."""
        targets_M = torch.tensor([token for rollout in rollouts for token in rollout.tokens])
        hidden_MD = hidden_states(self.model, rollouts)
        return log_probabilities(hidden_MD, head_weight(self.model), targets_M, self.recipe.temperature)

    @torch.no_grad()
    def _score(self, judged: Sequence[Judged]) -> list[Tensor]:
        """Log-probabilities by rollout under the weights as they are."""
        scores: list[Tensor] = [torch.empty(0)] * len(judged)
        rollouts = [one.rollout for one in judged]
        for places in micro_batches(rollouts, self.recipe.micro_tokens):
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

    def _metrics(self, collected: Collected, outcome: Outcome, waited: float, trained: float) -> GrpoMetrics:
        tokens = sum(len(one.rollout.tokens) for group in collected.groups for one in group)
        return GrpoMetrics(
            **summed_up(collected.groups, self.step - 1),
            loss=outcome.loss,
            gradient_norm=outcome.norm,
            learning_rate=outcome.rate,
            entropy=outcome.entropy,
            kl=outcome.kl,
            clipped=outcome.clipped,
            mismatch=outcome.mismatch,
            mismatch_largest=outcome.mismatch_largest,
            mismatch_kl=outcome.mismatch_kl,
            drift=outcome.drift,
            waiting=collected.waiting,
            skipped=outcome.skipped,
            rollout_seconds=collected.seconds,
            waited_seconds=waited,
            training_seconds=trained,
            tokens_per_second=tokens / (waited + trained),
            cost_usd=self.seconds / 3600 * self.recipe.price_usd,
        )

    def _save(self) -> None:
        state = {
            "recipe": self.recipe.to_json(),
            "updates": self.optimizer.updates,
            "recent_losses": list(self.watch.recent),
            "skipped": self.watch.skipped,
            "seconds": self.seconds,
            "history": self.history[-10:],
            # What was drawn ahead is kept, so that it need not be drawn again from weights that are gone.
            "ready": [self.collector.pack(one) for one in self.pipeline.settle()],
            "collector": self.collector.state(),
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

    def _load(self, checkpoint: Path) -> dict[str, Any]:
        """Go on from a checkpoint; returns its state, for what draws."""
        state, tensors = read_state(checkpoint)
        check_same_recipe(self.recipe.to_json(), state["recipe"], checkpoint, _FREE_KEYS)
        for name, tensor in self._tensors().items():
            tensor.copy_(tensors.tensor(name))
        self._fill({name: tensors.tensor(f"weight.{name}") for name in self.learned.weights})
        self.optimizer.updates = state["updates"]
        self.watch = Watch(self.recipe.anomalies, state["recent_losses"], state["skipped"])
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        return state

    def _tensors(self) -> dict[str, Tensor]:
        return self.optimizer.moments | {f"reference.{name}": tensor for name, tensor in self.reference.items()}


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


def voice_of(ref: str, recipe: GrpoRecipe) -> Voice:
    """How the recipe's model is asked: as the engine would."""
    checkpoint = open_checkpoint(resolve(ref))
    tokenizer = read_tokenizer(checkpoint)
    defaults = read_defaults(checkpoint)
    if recipe.system is not None:
        defaults = replace(defaults, system=recipe.system)
    return Voice(tokenizer, read_template(tokenizer, recipe.dialect), defaults)


def _pool(task: str, count: int, base: Path) -> list[Problem]:
    limit = None if ".jsonl" in task else count
    return [problem for found in load_tasks(task, limit, split="train", base=base).values() for problem in found]


def _spread(values: Sequence[float], sizes: Sequence[int]) -> Tensor:
    """One value per rollout to one per token."""
    return torch.repeat_interleave(torch.tensor(values, dtype=torch.float32), torch.tensor(sizes))


def hidden_states(model: Transformer, rollouts: Sequence[Rollout]) -> Tensor:
    """The state that each sampled token was predicted from, of all rollouts one after another: hidden_MD."""
    batch = flat_batch([(*rollout.prompt, *rollout.tokens[:-1]) for rollout in rollouts])
    rows: list[int] = []
    for start, rollout in zip(batch.starts, rollouts, strict=True):
        first = start + len(rollout.prompt) - 1
        rows += range(first, first + len(rollout.tokens))
    hidden_ND: Tensor = model(batch.tokens_N, batch.positions_N, batch.cache())
    return hidden_ND[torch.tensor(rows)]


def micro_batches(rollouts: Sequence[Rollout], tokens: int) -> list[list[int]]:
    """Places of rollouts in parts of at most `tokens` rows (or one rollout), neighbours in length together."""
    sizes = [len(rollout.prompt) + len(rollout.tokens) - 1 for rollout in rollouts]
    parts: list[list[int]] = []
    for place in sorted(range(len(sizes)), key=lambda one: -sizes[one]):
        if parts and padded_length([*(sizes[one] for one in parts[-1]), sizes[place]]) <= tokens:
            parts[-1].append(place)
        else:
            parts.append([place])
    return parts
