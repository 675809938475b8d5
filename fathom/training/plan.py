"""What follows from a recipe before it runs: sizes, operations, memory, steps, hours, money."""

from dataclasses import dataclass

from fathom.costs import model_costs, training_cost, training_flops_per_token
from fathom.data.errors import RecipeError
from fathom.training.recipe import Recipe
from fathom.training.schedules import batch_sequences


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Derived settings. `state_bytes`: weights, gradients, moments and averages, without activations.

    `matrix_rate`: operations per second that MFU is a share of; `hours` and `cost_usd` assume the recipe's `mfu`.
    """

    parameters_total: int
    parameters_active: int
    parameters_prediction: int
    flops_per_token: int
    state_bytes: int
    steps: int
    tokens: int
    matrix_rate: float
    hours: float
    cost_usd: float

    def lines(self) -> list[str]:
        """For a person."""
        modules = f" + {self.parameters_prediction:,} in prediction modules" if self.parameters_prediction else ""
        return [
            f"parameters   {self.parameters_total:,} total, {self.parameters_active:,} active per token{modules}",
            f"operations   {self.flops_per_token / 1e6:,.1f} MFLOP per token of training",
            f"memory       {self.state_bytes / 2**20:,.1f} MiB for weights, gradients and moments; activations besides",
            f"length       {self.tokens:,} tokens in {self.steps:,} steps",
            f"forecast     {self.hours:.2f} hours at {self.matrix_rate / 1e9:,.1f} GFLOPS x mfu, ${self.cost_usd:,.2f}",
        ]


def plan_run(recipe: Recipe, rate: float) -> RunPlan:
    """Derive everything; `rate` is the measured matrix rate, used where the recipe names no GPU."""
    costs = model_costs(recipe.model)
    length, machine = recipe.data.sequence_length, recipe.machine
    steps, tokens = run_length(recipe)
    per_token = training_flops_per_token(recipe.model, length)
    if machine.gpu is None:
        hours = tokens * per_token / (rate * machine.mfu) / 3600
        cost_usd = hours * machine.price_usd
    else:
        assumed = {"gpu": machine.gpu, "mfu": machine.mfu, "price_usd": machine.price_usd}
        try:
            cost = training_cost(recipe.model, tokens, sequence_length=length, **assumed)  # type: ignore[arg-type]
        except ValueError as error:
            raise RecipeError(f"machine: {error}") from error
        hours, cost_usd = cost.train_gpu_hours, cost.train_cost_usd
        rate = tokens * per_token / (hours * 3600 * machine.mfu)
    return RunPlan(
        parameters_total=costs.parameters_total,
        parameters_active=costs.parameters_active,
        parameters_prediction=costs.parameters_prediction,
        flops_per_token=per_token,
        state_bytes=state_bytes(recipe, costs.parameters_total + costs.parameters_prediction),
        steps=steps,
        tokens=tokens,
        matrix_rate=rate,
        hours=hours,
        cost_usd=cost_usd,
    )


def state_bytes(recipe: Recipe, parameters: int) -> int:
    """Bytes for every parameter: float32 weight and gradient sum, gradient and copy in the precision, moments, EMA."""
    copies = 4 + 4 + (4 if recipe.precision == "float32" else 2 + 2)
    moments = {"float32": 8, "bfloat16": 4}[recipe.optimizer.moments]
    return parameters * (copies + moments + (4 if recipe.ema_decay is not None else 0))


def run_length(recipe: Recipe) -> tuple[int, int]:
    """Steps of the run and tokens they see: the batch ramp walked through to the end."""
    steps = tokens = 0
    while tokens < recipe.tokens:
        sequences = batch_sequences(recipe.batch, tokens / recipe.tokens)
        if sequences == recipe.batch.sequences:
            per_step = sequences * recipe.data.sequence_length
            if recipe.batch.ramp_from is None or tokens / recipe.tokens >= recipe.batch.ramp_until:
                rest = -(-(recipe.tokens - tokens) // per_step)
                return steps + rest, tokens + rest * per_step
        tokens += sequences * recipe.data.sequence_length
        steps += 1
    return steps, tokens
