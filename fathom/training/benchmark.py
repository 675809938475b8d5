"""How fast this machine takes a training step, without data: for `fathom bench train`, forecasts and comparisons."""

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from fathom.costs import training_flops_per_token
from fathom.models.config import ModelConfig
from fathom.models.transformer import Transformer
from fathom.training.machine import keep_freed_memory, matrix_rate
from fathom.training.objective import Objective, Rows
from fathom.training.optimizer import DTYPES, AdamW, MasterWeights, clip_scale
from fathom.training.plan import run_length
from fathom.training.precision import apply_precision
from fathom.training.recipe import Recipe, read_recipe, recipe_path


@dataclass(frozen=True, slots=True)
class TrainingSpeed:
    """Whole optimiser steps. `mfu`: share of `matrix_rate`, operations per second of large products in `dtype`."""

    tokens_per_second: float
    step_seconds: float
    steps: int
    tokens_per_step: int
    flops_per_token: int
    matrix_rate: float
    mfu: float
    peak_memory_bytes: int
    device: str
    dtype: str
    threads: int

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


class Steps:
    """Optimiser steps of a recipe on random tokens: the trainer's own arithmetic without data, files and metrics."""

    def __init__(self, recipe: Recipe) -> None:
        keep_freed_memory()
        self.recipe = recipe
        self.model = Transformer(recipe.model)
        self.model.initialise(torch.Generator().manual_seed(recipe.seed))
        self._masters = MasterWeights(self.model, recipe.precision)
        apply_precision(self.model, recipe.precision)
        self._optimizer = AdamW(self._masters.weights, recipe.optimizer)
        self._objective = Objective(self.model, recipe)
        width = recipe.data.sequence_length + 1 + recipe.model.num_nextn_predict_layers
        generator = torch.Generator().manual_seed(recipe.seed)
        rows_BW = torch.randint(recipe.model.vocab_size, (recipe.batch.sequences, width), generator=generator)
        self._rows = Rows(rows_BW, None)

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.recipe.batch.sequences * self.recipe.data.sequence_length

    def take(self) -> None:
        """One step: micro-batches, clipping, AdamW, weights rounded into the model."""
        weight = self.recipe.prediction.weight if self.recipe.prediction else 0.0
        for part in self._objective.begin(self._rows, weight):
            self._objective.losses(part).total().backward()  # type: ignore[no-untyped-call]
            self._masters.collect()
        scale = clip_scale(self._masters.gradient_norm(), self.recipe.optimizer.clip)
        self._optimizer.step(self._masters.gradients, self.recipe.schedule.peak, scale)
        self._masters.publish()


def measure_training(recipe: Recipe, *, seconds: float = 10.0, rate: float | None = None) -> TrainingSpeed:
    """Take steps of a recipe for about `seconds`, at least three after one that does not count; report the median.

    Args:
        recipe: what to train; its data are not read.
        seconds: how long to measure.
        rate: the matrix rate to compare with; None measures it.

    """
    steps = Steps(recipe)
    steps.take()
    times = timed(steps.take, seconds)
    rate = rate or matrix_rate(DTYPES[recipe.precision])
    median = statistics.median(times)
    speed = steps.tokens / median
    flops = training_flops_per_token(recipe.model, recipe.data.sequence_length)
    return TrainingSpeed(
        tokens_per_second=speed,
        step_seconds=median,
        steps=len(times),
        tokens_per_step=steps.tokens,
        flops_per_token=flops,
        matrix_rate=rate,
        mfu=speed * flops / rate,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        device="cpu",
        dtype=recipe.precision,
        threads=torch.get_num_threads(),
    )


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run of a recipe will take on this machine. `hours`: steps and looks at held-out text together."""

    tokens_per_second: float
    mfu: float
    steps: int
    tokens: int
    looks: int
    hours: float
    cost_usd: float

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def forecast(recipe: Recipe, *, seconds: float = 60.0) -> Forecast:
    """Measure whole steps and count how many the recipe takes; a look at held-out text costs a third of its tokens."""
    steps, tokens = run_length(recipe)
    speed = measure_training(recipe, seconds=seconds)
    looks = -(-steps // recipe.evaluation.every)
    looked = looks * recipe.evaluation.rows * recipe.data.sequence_length / 3  # forward without backward
    hours = (tokens + looked) / speed.tokens_per_second / 3600
    return Forecast(speed.tokens_per_second, speed.mfu, steps, tokens, looks, hours, hours * recipe.machine.price_usd)


def timed(step: Callable[[], None], seconds: float) -> list[float]:
    """Wall times of repeated calls until `seconds` are over, at least three."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return times


def default_recipe(overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe that `fathom bench train` measures where none is named: that of the CPU speedrun."""
    return read_recipe(recipe_path("speedrun-cpu"), overrides)


def dense_twin(model: ModelConfig) -> ModelConfig:
    """The same model without experts at equal compute: every mixture becomes a feed-forward of the width that a token
    used (shared and chosen experts together, and what the gate cost), averaged with the dense blocks there were.
    """
    if not model.n_routed_experts:
        return model
    mixtures = sum(model.has_experts(layer) for layer in range(model.num_hidden_layers))
    used = (model.n_shared_experts + model.num_experts_per_tok) * model.moe_intermediate_size
    used += round(model.n_routed_experts / 3)  # gate: E*D, feed-forward: 3*F*D
    dense = model.num_hidden_layers - mixtures
    width = (dense * model.intermediate_size + mixtures * used) / model.num_hidden_layers
    rounded = max(16, round(width / 16) * 16)
    return replace(model, first_k_dense_replace=model.num_cache_layers, intermediate_size=rounded)


def dense_recipe(recipe: Recipe) -> Recipe:
    """The recipe with the dense twin of its model; everything else stays."""
    return replace(recipe, model=dense_twin(recipe.model), balance_v2=None, balance_v3=None)
