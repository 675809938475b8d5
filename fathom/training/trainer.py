"""The one training loop: batches to gradients to weights, with checkpoints, metrics and looks at held-out text."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from fathom.checkpoints import save_model
from fathom.checkpoints.errors import DiskFullError
from fathom.data.errors import ShardError
from fathom.data.loader import Batch, Loader
from fathom.models.experts import MixtureOfExperts
from fathom.training import balance, schedules
from fathom.training.checkpoint import BackgroundWriter, checkpoints, remove_old
from fathom.training.dropping import apply_dropping
from fathom.training.errors import ResumeError
from fathom.training.evaluation import Evaluation, evaluate
from fathom.training.machine import deterministic, keep_freed_memory, matrix_rate
from fathom.training.metrics import MetricsFile, StepMetrics
from fathom.training.objective import Losses, Objective, Rows
from fathom.training.optimizer import DTYPES, clip_scale, update_average
from fathom.training.parallel import layout_from_environment
from fathom.training.plan import RunPlan, plan_run
from fathom.training.precision import apply_precision
from fathom.training.recipe import Recipe
from fathom.training.recompute import apply_recompute
from fathom.training.run_state import RunState
from fathom.training.tensorboard import TensorBoard

Say = Callable[[str], None]
OnStep = Callable[[StepMetrics], None]


@dataclass(frozen=True, slots=True)
class Summary:
    """A finished run. `evaluation` is None where the shards hold no held-out text."""

    checkpoint: Path
    steps: int
    tokens: int
    loss: float | None  # of the last step, if this session took one
    evaluation: Evaluation | None
    seconds: float
    cost_usd: float


class Trainer:
    """One run of a recipe in its output folder.

    Args:
        recipe: what to do.
        base: the folder that the recipe's paths start from.
        resume: go on from the newest checkpoint; from the beginning where a kill came before the first one.
        say: told what a person should know.
        rate: operations per second that MFU is measured by; None measures the matrix rate here.

    Raises:
        ResumeError: the output holds a run and `resume` is not set, or another recipe's run.
        ShardError: the shards do not fit the recipe.

    """

    def __init__(
        self, recipe: Recipe, base: Path, *, resume: bool = False, say: Say = print, rate: float | None = None
    ) -> None:
        self.recipe = recipe
        self.layout = layout_from_environment(recipe)
        self.say: Say = say if self.layout.is_main else lambda _text: None
        self.output = base / recipe.output
        self._shards = base / recipe.data.shards
        self._checkpoints = self.output / "checkpoints"
        existing = checkpoints(self._checkpoints)
        if existing and not resume:
            raise ResumeError(f"{self.output} holds a run already: add --resume, or choose another output")
        self.plan: RunPlan = plan_run(recipe, rate or matrix_rate(DTYPES[recipe.precision]))
        begin = base / recipe.init if recipe.init is not None and not existing else None
        self.state = RunState(recipe, self._shards, begin, self.layout)
        self._writer = BackgroundWriter()
        self._check_vocabulary()
        self._validation = self._held_out()
        if existing:
            for note in self.state.load(existing[-1]):
                self.say(note)
            self.say(f"going on from {existing[-1].name}")
        elif resume:
            self.say("no checkpoint yet: starting from the beginning")
        apply_dropping(self.state.model, recipe.balance_v2, recipe.data.sequence_length)
        apply_precision(self.state.model, recipe.precision)
        apply_recompute(self.state.model, recipe.recompute)
        self._objective = Objective(self.state.model, recipe, self.layout)

    def run(self, on_step: OnStep = lambda _metrics: None) -> Summary:
        """Train to the end of the recipe's tokens and return what came out."""
        keep_freed_memory()
        state, loss, evaluation = self.state, None, None
        main = self.layout.is_main
        metrics_file = MetricsFile(self.output / "metrics.jsonl" if main else Path(os.devnull), state.step)
        board = TensorBoard(self.output / "tensorboard", state.step) if main and self.recipe.tensorboard else None
        try:
            with deterministic():
                while state.loader.tokens_seen < self.recipe.tokens:
                    metrics = self.step()
                    loss = metrics.loss
                    metrics_file.write(metrics.to_json())
                    if board is not None:
                        board.step(metrics)
                    on_step(metrics)
                    last = state.loader.tokens_seen >= self.recipe.tokens
                    if last or state.step % self.recipe.evaluation.every == 0:
                        evaluation = self._evaluate(metrics_file)
                        if board is not None and evaluation is not None:
                            board.evaluation(state.step - 1, evaluation)
                    if last or state.step % self.recipe.checkpoints.every == 0:
                        self._save()
            self._writer.wait()
        finally:
            metrics_file.close()
            if board is not None:
                board.close()
            with contextlib.suppress(DiskFullError):
                self._writer.wait()
        return self._finish(loss, evaluation)

    def step(self) -> StepMetrics:
        """Take one optimiser step, or skip it where the anomaly policy says so."""
        state, recipe, start = self.state, self.recipe, time.perf_counter()
        progress = state.progress
        sequences = schedules.batch_sequences(recipe.batch, progress)
        first = state.loader.tokens_seen // recipe.data.sequence_length
        weight = schedules.prediction_weight(recipe.prediction, progress) if recipe.prediction else 0.0
        losses = self._gradients(rows_of(state.loader.next(sequences)), weight)
        norm = self.layout.norm(state.masters.gradients)
        rate = schedules.learning_rate(recipe.schedule, state.step, progress)
        total = float(losses.total())
        skipped = state.watch.judge(state.step, range(first, first + sequences), total, float(norm))
        if skipped is None:
            self._update(norm, rate, progress)
        else:
            state.masters.discard()
            self.say(skipped)
        state.step += 1
        seconds = time.perf_counter() - start
        state.seconds += seconds
        speed = sequences * recipe.data.sequence_length / seconds
        return StepMetrics(
            step=state.step - 1,
            tokens=state.loader.tokens_seen,
            loss=float(losses.next_token),
            prediction=float(losses.prediction),
            balance=float(losses.balance),
            gradient_norm=float(norm),
            learning_rate=rate,
            sequences=sequences,
            max_violation={layer: balance.max_violation(load) for layer, load in self._objective.loads.items()},
            skipped=skipped,
            seconds=seconds,
            tokens_per_second=speed,
            mfu=speed * self.plan.flops_per_token / self.plan.matrix_rate,
            cost_usd=self._cost(),
        )

    def _gradients(self, rows: Rows, prediction_weight: float) -> Losses:
        """Sum the gradients of the batch into the masters; return its losses."""
        sums = Losses(*(torch.zeros(()) for _ in Losses._fields))
        for part in self._objective.begin(rows, prediction_weight):
            losses = self._objective.losses(part)
            losses.total().backward()  # type: ignore[no-untyped-call]
            self.state.masters.collect()
            sums = Losses(*(total + one.detach() for total, one in zip(sums, losses, strict=True)))
        self.layout.sum_gradients(self.state.masters.gradients)
        for load_E in self._objective.loads.values():
            self.layout.sum(load_E)
        return Losses(*self.layout.sum(torch.stack(tuple(sums))))

    def _update(self, norm: torch.Tensor, rate: float, progress: float) -> None:
        state, recipe = self.state, self.recipe
        state.optimizer.step(state.masters.gradients, rate, clip_scale(norm, recipe.optimizer.clip))
        state.masters.publish()
        if recipe.ema_decay is not None:
            update_average(state.average, state.masters.weights, recipe.ema_decay)
        if recipe.balance_v3 is not None:
            speed = schedules.bias_speed(recipe.balance_v3, progress)
            for layer, load_E in self._objective.loads.items():
                mixture = state.model.model.layers[layer].mlp
                assert isinstance(mixture, MixtureOfExperts)
                balance.update_bias(mixture.gate.e_score_correction_bias, load_E, speed)

    def _evaluate(self, metrics_file: MetricsFile) -> Evaluation | None:
        loads = {layer: load.tolist() for layer, load in self._objective.loads.items()}
        if loads:
            metrics_file.write({"kind": "experts", "step": self.state.step - 1, "loads": loads})
        if self._validation is None:
            return None
        result = evaluate(self.state.model, self._validation, self.recipe.loss_rows)
        metrics_file.write({"kind": "evaluation", "step": self.state.step - 1, **result._asdict()})
        accepted = "" if result.acceptance is None else f", second token accepted {result.acceptance:.1%}"
        self.say(f"step {self.state.step}: held-out loss {result.loss:.4f}{accepted}")
        return result

    def _save(self) -> None:
        """Have a checkpoint written while the run goes on, and the oldest dropped when it is there.

        A full disk costs the checkpoint, not the run; at the next one the person is told. The last must succeed.
        """
        write = self.state.snapshot(self._checkpoints, self._shards / "tokenizer")
        if not self.layout.is_main:
            return

        def save() -> None:
            write()
            remove_old(self._checkpoints, self.recipe.checkpoints.keep)

        try:
            self._writer.submit(save)
        except DiskFullError as error:
            self.say(f"the last checkpoint could not be written: {error} (the run goes on)")

    def _finish(self, loss: float | None, evaluation: Evaluation | None) -> Summary:
        state = self.state
        if state.average:
            average = state.average_model()
            if self.layout.is_main:
                shutil.rmtree(self.output / "average", ignore_errors=True)
                save_model(average, self.output / "average")
        self.layout.sum(torch.zeros(1))  # wait for the process that writes
        newest = checkpoints(self._checkpoints)[-1]
        tokens = state.loader.tokens_seen
        return Summary(newest, state.step, tokens, loss, evaluation, state.seconds, self._cost())

    def _cost(self) -> float:
        return self.state.seconds / 3600 * self.recipe.machine.price_usd

    def _check_vocabulary(self) -> None:
        held, given = self.recipe.model.vocab_size, self.state.loader.index.vocab_size
        if given > held:
            raise ShardError(
                f"{self._shards} was made with {given:,} tokens, the model has {held:,}: set model.vocab_size={given}"
            )

    def _held_out(self) -> torch.Tensor | None:
        """tokens_BW of the held-out rows, the same in every evaluation; None where the shards hold none."""
        length = self.recipe.data.sequence_length
        if self.state.loader.index.tokens("validation") < length:
            return None
        loader = Loader(self._shards, length, split="validation", lookahead=2, shuffle=False)
        rows = range(min(self.recipe.evaluation.rows, loader.rows_per_pass))
        return torch.from_numpy(loader.rows(rows).tokens_BT)


def rows_of(batch: Batch) -> Rows:
    """A loader's batch as tensors."""
    documents = None if batch.documents_BT is None else torch.from_numpy(batch.documents_BT)
    return Rows(torch.from_numpy(batch.tokens_BT), documents)
