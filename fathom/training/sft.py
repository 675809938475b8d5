"""Supervised fine-tuning: conversations to an adapter or to weights, with exact resume.

M rows that are learned, D hidden size.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.checkpoints import open_checkpoint, resolve
from fathom.checkpoints.errors import DiskFullError
from fathom.data.errors import RecipeError
from fathom.text import ChatTemplate, Message, Tokenizer
from fathom.training.anomalies import Watch
from fathom.training.checkpoint import checkpoints, read_state, remove_old
from fathom.training.cross_entropy import chunked_cross_entropy
from fathom.training.errors import ResumeError
from fathom.training.log_probabilities import log_probabilities
from fathom.training.metrics import MetricsFile
from fathom.training.objective import head_weight
from fathom.training.optimizer import AdamW, clip_scale
from fathom.training.sequences import flat_batch
from fathom.training.sft_data import Batches, Example, examples, micro_batches, read_conversations
from fathom.training.sft_recipe import SftRecipe, SftSchedule
from fathom.training.sft_weights import AdapterWeights, Learned, attach_adapter, save_learned, trainable_model

Say = Callable[[str], None]
_FREE_KEYS = ("output", "checkpoints", "anomalies", "price_usd")


@dataclass(frozen=True, slots=True)
class SftMetrics:
    """One step. `loss`: nats per learned token; `tokens`: all tokens so far; `learned`: those of this step's loss."""

    step: int
    epoch: float
    tokens: int
    learned: int
    loss: float
    gradient_norm: float
    learning_rate: float
    skipped: str | None
    seconds: float
    tokens_per_second: float
    cost_usd: float

    def to_json(self) -> dict[str, Any]:
        """One line of metrics.jsonl."""
        return {"kind": "step", **asdict(self)}


@dataclass(frozen=True, slots=True)
class SftSummary:
    """A finished run. `held_out_loss` is None where no conversation was kept for it."""

    checkpoint: Path
    steps: int
    tokens: int
    examples: int
    left_out: int
    loss: float | None
    held_out_loss: float | None
    seconds: float
    cost_usd: float


class SftTrainer:
    """One run of a recipe in its output folder; arguments and errors as `Trainer`'s."""

    def __init__(self, recipe: SftRecipe, base: Path, *, resume: bool = False, say: Say = print) -> None:
        from fathom.engine.loading import read_template, read_tokenizer

        self.recipe, self.say = recipe, say
        self.output = base / recipe.output
        self._checkpoints = self.output / "checkpoints"
        existing = checkpoints(self._checkpoints)
        if existing and not resume:
            raise ResumeError(f"{self.output} holds a run already: add --resume, or choose another output")
        path = resolve(_model_path(recipe.model, base))
        self.tokenizer = read_tokenizer(open_checkpoint(path))
        self.template = read_template(self.tokenizer, recipe.dialect)
        self._tokenizer_folder = path if path.is_dir() else path.parent
        train, self._held_out, self.left_out = load_examples(recipe, base, self.template, self.tokenizer)
        self.model, masters = trainable_model(path, recipe.precision, full=recipe.lora is None)
        self.learned: Learned
        if masters is not None:
            self.learned = masters
        else:
            assert recipe.lora is not None
            self.learned = attach_adapter(self.model, recipe.lora, base, recipe.seed)
        self.optimizer = AdamW(self.learned.weights, recipe.optimizer)
        self.batches = Batches(train, recipe.batch.tokens, recipe.seed)
        self.watch = Watch(recipe.anomalies)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        if existing:
            self._load(existing[-1])
            say(f"going on from {existing[-1].name}")

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        return min(1.0, self.batches.progress / self.recipe.epochs)

    def run(self, on_step: Callable[[SftMetrics], None] = lambda _metrics: None) -> SftSummary:
        """Train to the end of the recipe's epochs."""
        metrics_file = MetricsFile(self.output / "metrics.jsonl", self.step)
        loss = held_out = None
        try:
            while self.progress < 1.0:
                metrics = self.take_step()
                loss = metrics.loss
                metrics_file.write(metrics.to_json())
                on_step(metrics)
                last = self.progress >= 1.0
                if last or self.step % self.recipe.checkpoints.every == 0:
                    self._save(last=last)
                    held_out = self.evaluate()
                    if held_out is not None:
                        metrics_file.write({"kind": "evaluation", "step": self.step - 1, "loss": held_out})
                        self.say(f"step {self.step}: held-out loss {held_out:.4f}")
        finally:
            metrics_file.close()
        newest = checkpoints(self._checkpoints)[-1]
        counts = (self.step, self.tokens, len(self.batches.examples), self.left_out)
        return SftSummary(newest, *counts, loss, held_out, self.seconds, self._cost())

    def take_step(self) -> SftMetrics:
        """One optimiser step, or a skipped one where the anomaly policy says so."""
        start = time.perf_counter()
        rate = learning_rate(self.recipe.schedule, self.step, self.progress)
        first = self.batches.place
        batch = self.batches.next()
        learned = sum(sum(example.learned) for example in batch)
        total = 0.0
        for part in micro_batches(batch, self.recipe.batch.micro_tokens):
            loss = self._loss(part) / learned
            loss.backward()  # type: ignore[no-untyped-call]
            self.learned.collect()
            total += float(loss.detach())
        norm = self.learned.gradient_norm()
        skipped = self.watch.judge(self.step, range(first, first + len(batch)), total, float(norm))
        if skipped is None:
            self.optimizer.step(self.learned.gradients, rate, clip_scale(norm, self.recipe.optimizer.clip))
            self.learned.publish()
        else:
            self.learned.discard()
            self.say(skipped)
        self.step += 1
        tokens = sum(len(example.ids) for example in batch)
        self.tokens += tokens
        seconds = time.perf_counter() - start
        self.seconds += seconds
        return SftMetrics(
            step=self.step - 1,
            epoch=self.batches.progress,
            tokens=self.tokens,
            learned=learned,
            loss=total,
            gradient_norm=float(norm),
            learning_rate=rate,
            skipped=skipped,
            seconds=seconds,
            tokens_per_second=tokens / seconds,
            cost_usd=self._cost(),
        )

    @torch.no_grad()
    def evaluate(self) -> float | None:
        """Nats per learned token of the held-out examples."""
        if not self._held_out:
            return None
        parts = micro_batches(self._held_out, self.recipe.batch.micro_tokens)
        total = sum(float(self._loss(part)) for part in parts)
        return total / sum(sum(example.learned) for example in self._held_out)

    def _loss(self, part: Sequence[Example]) -> Tensor:
        """Sum of -log p over the learned tokens of one micro-batch."""
        batch = flat_batch([example.ids[:-1] for example in part])
        rows: list[int] = []
        targets: list[int] = []
        for start, example in zip(batch.starts, part, strict=True):
            for place in range(1, len(example.ids)):
                if example.learned[place]:
                    rows.append(start + place - 1)
                    targets.append(example.ids[place])
        hidden_ND = self.model(batch.tokens_N, batch.positions_N, batch.cache())
        hidden_MD, targets_M = hidden_ND[torch.tensor(rows)], torch.tensor(targets)
        if isinstance(self.learned, AdapterWeights):
            return -log_probabilities(hidden_MD, head_weight(self.model), targets_M).chosen_M.sum()
        return chunked_cross_entropy(hidden_MD, head_weight(self.model), targets_M)

    def _save(self, *, last: bool) -> None:
        state = {
            "recipe": self.recipe.to_json(),
            "updates": self.optimizer.updates,
            "epoch": self.batches.epoch,
            "place": self.batches.place,
            "tokens": self.tokens,
            "recent_losses": list(self.watch.recent),
            "skipped": self.watch.skipped,
            "seconds": self.seconds,
        }
        folder, base, kept = self._tokenizer_folder, self.recipe.model, self.optimizer.moments
        try:
            save_learned(self._checkpoints, self.step, self.model, self.learned, base, folder, state, kept)
        except DiskFullError as error:
            if last:
                raise
            self.say(f"no checkpoint at step {self.step}: {error} (the run goes on)")
            return
        remove_old(self._checkpoints, self.recipe.checkpoints.keep)

    def _load(self, checkpoint: Path) -> None:
        state, tensors = read_state(checkpoint)
        check_same_recipe(self.recipe.to_json(), state["recipe"], checkpoint, _FREE_KEYS)
        for name, tensor in self.optimizer.moments.items():
            tensor.copy_(tensors.tensor(name))
        for name, weight in self.learned.weights.items():
            weight.copy_(tensors.tensor(f"weight.{name}"))
        self.learned.publish()
        self.optimizer.updates = state["updates"]
        self.batches.epoch, self.batches.place = state["epoch"], state["place"]
        self.watch = Watch(self.recipe.anomalies, state["recent_losses"], state["skipped"])
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]

    def _cost(self) -> float:
        return self.seconds / 3600 * self.recipe.price_usd


def load_examples(
    recipe: SftRecipe, base: Path, template: ChatTemplate, tokenizer: Tokenizer
) -> tuple[list[Example], list[Example], int]:
    """Examples to learn, held-out examples, and how many were too long for `data.max_tokens`."""
    train: list[Example] = []
    held_out: list[Example] = []
    left_out = 0
    for name in recipe.data.files:
        for number, conversation in enumerate(read_conversations(base / name)):
            if recipe.data.system is not None and conversation[0].role != "system":
                conversation = [Message("system", recipe.data.system), *conversation]
            place = held_out if recipe.held_out and number % recipe.held_out == recipe.held_out - 1 else train
            for example in examples(conversation, template, tokenizer, recipe.data.learned):
                if len(example.ids) <= recipe.data.max_tokens:
                    place.append(example)
                else:
                    left_out += 1
    if not train:
        raise RecipeError(f"there is nothing to learn in {', '.join(recipe.data.files)}: {left_out} examples too long")
    return train, held_out, left_out


def learning_rate(schedule: SftSchedule, step: int, progress: float) -> float:
    """Linear warm-up by steps, then a cosine over the run from `peak` to `last`."""
    if step < schedule.warmup_steps:
        return schedule.peak * (step + 1) / schedule.warmup_steps
    return schedule.last + (schedule.peak - schedule.last) * 0.5 * (1 + math.cos(math.pi * progress))


def check_same_recipe(current: dict[str, Any], saved: dict[str, Any], checkpoint: Path, free: Sequence[str]) -> None:
    """Raise ResumeError, naming the keys, where a checkpoint was made with other settings that matter."""
    current = json.loads(json.dumps(current))
    differing = sorted(
        key for key in current.keys() | saved.keys() if key not in free and current.get(key) != saved.get(key)
    )
    if differing:
        raise ResumeError(
            f"{checkpoint} was made with other settings of {', '.join(differing)}: resume with that recipe, "
            "or choose another output"
        )


def _model_path(ref: str, base: Path) -> str:
    """A folder or file beside the recipe, else the reference as it is."""
    return str(base / ref) if (base / ref).exists() else ref
