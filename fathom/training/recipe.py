"""The recipe of a pre-training run: one TOML file, every key typed. `docs/training.md` explains them by example.

Lengths of phases are shares of the run's tokens (0 to 1), so that a recipe keeps its shape when `tokens` changes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from fathom.data.errors import RecipeError
from fathom.data.typed import from_table, read_toml
from fathom.models import ConfigError, ModelConfig

Policy = Literal["stop", "skip"]
Region = Literal["attention", "feed-forward"]


def require(condition: bool, message: str) -> None:
    """Raise RecipeError unless the condition holds."""
    if not condition:
        raise RecipeError(message)


@dataclass(frozen=True, slots=True)
class DataSettings:
    """`shards`: the folder that `fathom data prepare` made, from the recipe's folder.

    `sequence_length`: tokens of a row. `mask_documents`: whether tokens see only their own document (DeepSeek-V3 packs
    without masks, section 4.1).
    `shuffle`: whether rows come in an order drawn from the recipe's seed.
    """

    shards: str
    sequence_length: int
    mask_documents: bool = False
    shuffle: bool = True

    def __post_init__(self) -> None:
        require(self.sequence_length >= 2, "sequence_length is at least 2")


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """`sequences`: rows of an optimiser step. `micro_sequences`: rows of one forward; the rest is accumulated.

    `ramp_from`: rows of the first step; the batch grows linearly to `sequences` over the share `ramp_until` of the
    tokens (V3, section 4.2: 3072 to 15360 sequences over 469B of 14.8T tokens), in whole micro-batches.
    """

    sequences: int
    micro_sequences: int
    ramp_from: int | None = None
    ramp_until: float = 0.0317

    def __post_init__(self) -> None:
        require(self.micro_sequences >= 1, "micro_sequences is at least 1")
        for name in ("sequences", "ramp_from"):
            value = getattr(self, name)
            require(
                value is None or (value >= 1 and value % self.micro_sequences == 0),
                f"{name} is a multiple of micro_sequences ({self.micro_sequences}), not {value}",
            )
        require(self.ramp_from is None or self.ramp_from <= self.sequences, "ramp_from is at most sequences")
        require(0 < self.ramp_until <= 1, "ramp_until is a share of the tokens, above 0 and at most 1")


@dataclass(frozen=True, slots=True)
class StepDecay:
    """V2's schedule (section 3.1.2): after the warm-up, times `factor` at each share `drops` of the tokens."""

    drops: tuple[float, ...] = (0.6, 0.9)
    factor: float = 0.316

    def __post_init__(self) -> None:
        require(all(0 < drop < 1 for drop in self.drops), "drops are shares of the tokens between 0 and 1")
        require(0 < self.factor <= 1, "factor is above 0 and at most 1")


@dataclass(frozen=True, slots=True)
class CosineDecay:
    """V3's schedule (section 4.2): constant until one share of the tokens, a cosine to `floor` until another, then
    constant at `floor`, from `last_from` on constant at `last`. `floor` and `last` are multiples of the peak.

    The defaults are V3's: 10T, 14.3T and 14.633T of 14.8T tokens; 2.2e-5 and 7.3e-6 of 2.2e-4.
    """

    constant_until: float = 0.6757
    cosine_until: float = 0.9662
    floor: float = 0.1
    last_from: float = 0.9887
    last: float = 0.0332

    def __post_init__(self) -> None:
        ordered = 0 <= self.constant_until < self.cosine_until <= self.last_from <= 1
        require(ordered, "0 <= constant_until < cosine_until <= last_from <= 1")
        require(0 <= self.last <= self.floor <= 1, "0 <= last <= floor <= 1")


@dataclass(frozen=True, slots=True)
class ScheduleSettings:
    """`peak`: the highest learning rate, reached linearly after `warmup_steps`. Then `steps` or `cosine`, or neither:
    constant.
    """

    peak: float
    warmup_steps: int = 2000
    steps: StepDecay | None = None
    cosine: CosineDecay | None = None

    def __post_init__(self) -> None:
        require(self.peak > 0 and self.warmup_steps >= 0, "peak is above 0 and warmup_steps not below 0")
        require(self.steps is None or self.cosine is None, "a schedule decays by steps or by a cosine, not both")


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """AdamW as V2 and V3 set it. `clip`: the largest norm of the whole gradient. `moments`: their dtype (V3: bfloat16).

    Weight decay applies to matrices, embeddings included, and not to norms and biases.
    """

    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0
    moments: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        require(0 <= self.beta1 < 1 and 0 <= self.beta2 < 1, "beta1 and beta2 lie in [0, 1)")
        require(self.eps > 0 and self.weight_decay >= 0 and self.clip > 0, "eps, clip > 0 and weight_decay >= 0")


@dataclass(frozen=True, slots=True)
class BalanceV2:
    """V2's three losses (section 2.2.3) with its factors; the groups of the gate stand for the devices.

    `capacity`: choices that a device takes, as a multiple of its even share; those of lowest affinity beyond it are
    dropped (section 2.2.4; V2: 1.0). Left out, none. `exempt`: share of the sequences that are never dropped.
    """

    expert: float = 0.003
    device: float = 0.05
    communication: float = 0.02
    capacity: float | None = None
    exempt: float = 0.1

    def __post_init__(self) -> None:
        require(min(self.expert, self.device, self.communication) >= 0, "the factors are not below 0")
        require(self.capacity is None or self.capacity > 0, "capacity is above 0")
        require(0 <= self.exempt <= 1, "exempt is a share of the sequences")


@dataclass(frozen=True, slots=True)
class BalanceV3:
    """V3's balance without auxiliary loss (section 2.1.2): `bias_speed` is the step of the gate's bias, until the share
    `bias_until` of the tokens (14.3T of 14.8T), then 0. `sequence`: factor of the complementary sequence-wise loss.
    """

    bias_speed: float = 0.001
    bias_until: float = 0.9662
    sequence: float = 0.0001

    def __post_init__(self) -> None:
        require(min(self.bias_speed, self.sequence) >= 0, "bias_speed and sequence are not below 0")
        require(0 <= self.bias_until <= 1, "bias_until is a share of the tokens")


@dataclass(frozen=True, slots=True)
class PredictionSettings:
    """Weight of the multi-token prediction loss (V3, section 4.2): `weight` until the share `switch_at`, then
    `weight_after` (10T of 14.8T tokens).
    """

    weight: float = 0.3
    weight_after: float = 0.1
    switch_at: float = 0.6757

    def __post_init__(self) -> None:
        require(min(self.weight, self.weight_after) >= 0, "the weights are not below 0")
        require(0 <= self.switch_at <= 1, "switch_at is a share of the tokens")


@dataclass(frozen=True, slots=True)
class CheckpointSettings:
    """`every`: steps between checkpoints (the last step always has one). `keep`: how many of the newest stay."""

    every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        require(self.every >= 1 and self.keep >= 1, "every and keep are at least 1")


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """`every`: steps between looks at the held-out text. `rows`: how many rows of it (at most those it has)."""

    every: int = 500
    rows: int = 32

    def __post_init__(self) -> None:
        require(self.every >= 1 and self.rows >= 1, "every and rows are at least 1")


@dataclass(frozen=True, slots=True)
class AnomalySettings:
    """What happens to a step whose loss or gradient is not finite, or whose loss jumps.

    `not_finite`: `stop`, or `skip` (no update, the data go on). A jump is a loss above `spike_factor` times the median
    of the last 32 (none before these are there); `spike` says what to do with it, left out: nothing. After
    `skips_in_a_row` skipped steps the run stops all the same. Messages name step and rows.
    """

    not_finite: Policy = "stop"
    spike: Policy | None = None
    spike_factor: float = 1.5
    skips_in_a_row: int = 5

    def __post_init__(self) -> None:
        require(self.spike_factor > 1 and self.skips_in_a_row >= 1, "spike_factor > 1 and skips_in_a_row >= 1")


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """For the forecast and the money shown: `price_usd` of an hour, `mfu` as the share of the matrix rate that is
    expected. `gpu` (a key of `fathom.costs.PEAK_FLOPS`) plans for that; left out, this machine's rate is measured.
    """

    price_usd: float = 0.0
    mfu: float = 0.3
    gpu: str | None = None

    def __post_init__(self) -> None:
        require(self.price_usd >= 0 and 0 < self.mfu <= 1, "price_usd >= 0 and 0 < mfu <= 1")


@dataclass(frozen=True, slots=True)
class ParallelSettings:
    """For runs that torchrun starts in several processes, each with its share of the rows. `experts`: each also holds
    its share of every mixture's experts.
    """

    experts: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """A pre-training run.

    `output`: the folder of the run, from the recipe's folder. `tokens`: how many are trained on, rounded up to a whole
    step. `model`: a `ModelConfig` in its own names. `precision`: `float32`; `bfloat16` with float32 master weights,
    gradient sums and (unless `optimizer.moments` says else) moments; `fp8`: the same with FP8 products in attention's
    projections, feed-forwards and experts, as V3 has them. `recompute`: what is computed again in the
    backward instead of kept. `ema_decay`: of a float32 average of the weights; left out, none. `loss_rows`: rows whose
    logits exist at once. `seed`: of the initial weights and the order of the data. `init`: a checkpoint (its folder,
    from the recipe's) whose weights the run begins with; its config may differ in what has no weights, such as rotary
    scaling.
    `tensorboard`: write event files into the run's folder besides metrics.jsonl.
    """

    output: str
    tokens: int
    model: ModelConfig
    data: DataSettings
    batch: BatchSettings
    schedule: ScheduleSettings
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    balance_v2: BalanceV2 | None = None
    balance_v3: BalanceV3 | None = None
    prediction: PredictionSettings | None = None
    precision: Literal["float32", "bfloat16", "fp8"] = "float32"
    recompute: tuple[Region, ...] = ()
    ema_decay: float | None = None
    loss_rows: int = 1024
    seed: int = 0
    init: str | None = None
    tensorboard: bool = False
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    anomalies: AnomalySettings = field(default_factory=AnomalySettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    parallel: ParallelSettings = field(default_factory=ParallelSettings)

    def __post_init__(self) -> None:
        require(self.tokens >= 1 and self.loss_rows >= 1, "tokens and loss_rows are at least 1")
        require(self.ema_decay is None or 0 < self.ema_decay < 1, "ema_decay lies between 0 and 1")
        fits = self.data.sequence_length <= self.model.max_position_embeddings
        require(fits, "data.sequence_length is above model.max_position_embeddings")
        for key, architecture in (("balance_v2", "deepseek_v2"), ("balance_v3", "deepseek_v3")):
            wanted = self.model.architecture == architecture and self.model.n_routed_experts > 0
            given = getattr(self, key) is not None
            require(wanted or not given, f"{key} belongs to {architecture} with experts; leave it out")
        modules = self.model.num_nextn_predict_layers > 0
        require(modules == (self.prediction is not None), "[prediction] and model.num_nextn_predict_layers go together")

    def to_json(self) -> dict[str, Any]:
        """All keys, with the defaults filled in."""
        return asdict(self)


def read_recipe(file: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe; raises RecipeError, which names the key and the nearest known one."""
    try:
        return from_table(Recipe, read_toml(file, overrides), file.name)
    except ConfigError as error:
        raise RecipeError(f"{file.name}.model: {error}") from error


def recipe_path(name: str) -> Path:
    """Where a recipe of the repository lies, in a checkout or in an installed package; raises RecipeError."""
    package = Path(__file__).parent.parent
    for folder in (package.parent / "recipes", package / "recipes"):
        if (folder / f"{name}.toml").is_file():
            return folder / f"{name}.toml"
    raise RecipeError(f"this installation has no recipe {name}.toml")
