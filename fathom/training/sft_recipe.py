"""The recipe of a supervised fine-tuning run: one TOML file, every key typed. `docs/rl.md` explains them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from fathom.data.typed import from_table, read_toml
from fathom.models.adapter import TARGETS
from fathom.training.recipe import AnomalySettings, CheckpointSettings, OptimizerSettings, require


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """A low-rank adapter: `rank`, `alpha` (its scale is alpha / rank), and the layers that get one.

    `first_layer`: blocks below it get none; they are not gone back through, which saves their share of the time.
    `start`: a folder with an adapter to go on from; left out, a new one that changes nothing yet.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = TARGETS
    first_layer: int = 0
    start: str | None = None

    def __post_init__(self) -> None:
        require(self.rank >= 1 and self.alpha > 0, "rank is at least 1 and alpha above 0")
        require(self.first_layer >= 0, "first_layer is not below 0")
        beyond = sorted(set(self.targets) - set(TARGETS))
        require(not beyond, f"targets may be {', '.join(TARGETS)}, not {', '.join(beyond)}")


@dataclass(frozen=True, slots=True)
class SftData:
    """`files`: JSONL of conversations, from the recipe's folder. `learned`: what of an assistant turn the loss counts.

    `max_tokens`: longer examples are left out, and counted in the report. `system`: opens conversations that bring no
    system message (what the engine will put there too); left out, what the template does by itself.
    """

    files: tuple[str, ...]
    learned: Literal["answers", "thoughts and answers"] = "thoughts and answers"
    max_tokens: int = 2048
    system: str | None = None

    def __post_init__(self) -> None:
        require(bool(self.files), "files names at least one JSONL file")
        require(self.max_tokens >= 2, "max_tokens is at least 2")


@dataclass(frozen=True, slots=True)
class SftBatch:
    """`tokens`: of an optimiser step, about. `micro_tokens`: rows of one forward and backward."""

    tokens: int = 8192
    micro_tokens: int = 2048

    def __post_init__(self) -> None:
        require(self.tokens >= 1 and self.micro_tokens >= 1, "tokens and micro_tokens are at least 1")


@dataclass(frozen=True, slots=True)
class SftSchedule:
    """Learning rate: linear warm-up, then a cosine from `peak` to `last` (V3, section 5.1: 5e-6 to 1e-6)."""

    peak: float
    last: float = 0.0
    warmup_steps: int = 10

    def __post_init__(self) -> None:
        require(self.peak > 0 and 0 <= self.last <= self.peak, "0 <= last <= peak, and peak is above 0")
        require(self.warmup_steps >= 0, "warmup_steps is not below 0")


@dataclass(frozen=True, slots=True)
class SftRecipe:
    """A fine-tuning run.

    `model`: a model reference. `output`: the folder of the run, from the recipe's folder. `epochs`: passes over the
    examples, may be a fraction. `lora`: with this table only an adapter learns; left out, all weights do. `dialect`:
    how conversations are written, such as chatml-think; left out, as the checkpoint says. `precision`: of the model's
    computation; what is learned stays float32 (bfloat16 with full weights keeps float32 master weights).
    `held_out`: every so many conversations one is kept for evaluation; 0: none.
    """

    model: str
    output: str
    data: SftData
    schedule: SftSchedule
    epochs: float = 2.0
    batch: SftBatch = field(default_factory=SftBatch)
    lora: LoraSettings | None = None
    dialect: str | None = None
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    optimizer: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(weight_decay=0.0))
    held_out: int = 50
    seed: int = 0
    checkpoints: CheckpointSettings = field(default_factory=lambda: CheckpointSettings(every=50))
    anomalies: AnomalySettings = field(default_factory=AnomalySettings)
    price_usd: float = 0.0

    def __post_init__(self) -> None:
        require(self.epochs > 0, "epochs is above 0")
        require(self.held_out == 0 or self.held_out >= 2, "held_out is 0 or at least 2")

    def to_json(self) -> dict[str, Any]:
        """All keys, with the defaults filled in."""
        return asdict(self)


def read_sft_recipe(file: Path, overrides: Sequence[str] = ()) -> SftRecipe:
    """Read a recipe; raises RecipeError, which names the key and the nearest known one."""
    return from_table(SftRecipe, read_toml(file, overrides), file.name)
