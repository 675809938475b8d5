"""The recipe of a GRPO run: one TOML file, every key typed. `docs/rl.md` explains them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from fathom.data.typed import from_table, read_toml
from fathom.rl.objective import Normalise, Scale
from fathom.rl.rewards import RewardSettings
from fathom.training.recipe import AnomalySettings, CheckpointSettings, OptimizerSettings, require
from fathom.training.sft_recipe import LoraSettings


@dataclass(frozen=True, slots=True)
class Source:
    """Problems of one kind. `task`: a task of the suite (with `:hard` or not) or a .jsonl file with `[first:last]`,
    from the recipe's folder. `weight`: how often it is drawn from, beside the others. `count`: of a generated pool.
    """

    task: str
    weight: float = 1.0
    count: int = 500

    def __post_init__(self) -> None:
        require(self.weight > 0 and self.count >= 1, "weight is above 0 and count at least 1")


@dataclass(frozen=True, slots=True)
class ObjectiveSettings:
    """Which GRPO. The defaults are DAPO's and Dr. GRPO's choices that help small runs; `recipes/r1` sets R1's own.

    `scale`: advantages divided by the group's std, or not. `normalise`: per sequence, token or constant.
    `clip_low`, `clip_high`: epsilon below and above. `beta`: weight of the KL to the reference, which is replaced by
    the policy every `reference_every` steps (0: never). `importance_cap`: bound of the trainer/sampler weights; 0:
    none. `mismatch_stop`: the run stops where sampler and trainer differ by more nats a token on average.
    `mask_cut_off`: outputs that ended at max_tokens teach nothing (DAPO's overlong filtering).
    """

    scale: Scale = "std"
    normalise: Normalise = "token"
    clip_low: float = 0.2
    clip_high: float = 0.28
    beta: float = 0.0
    reference_every: int = 400
    importance_cap: float = 2.0
    mismatch_stop: float = 0.5
    mask_cut_off: bool = False

    def __post_init__(self) -> None:
        require(0 < self.clip_low <= 1 and self.clip_high > 0, "clip_low lies in (0, 1] and clip_high above 0")
        require(min(self.beta, self.importance_cap, self.reference_every) >= 0, "no setting is below 0")


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """When rollouts are drawn, and which are worth it.

    `ahead`: the batches that may be drawn before their step, each from the policy of so many updates before it; 0: draw
    and learn take turns. `step_tokens`: most tokens of a rollout in one step; what is not over then goes on in the next
    under the new policy; 0: all end in their step. `step_seconds`: the same by the clock (and so not repeated exactly);
    0: no bound. `extra_waves`: how often a step may draw further groups in place of those that teach nothing (DAPO's
    dynamic sampling). `curriculum`: tasks whose groups taught nothing lately are drawn less often.
    """

    ahead: int = 0
    step_tokens: int = 0
    step_seconds: float = 0.0
    extra_waves: int = 0
    curriculum: bool = False

    def __post_init__(self) -> None:
        least = min(self.ahead, self.step_tokens, self.step_seconds, self.extra_waves)
        require(least >= 0, "no setting of rollouts is below 0")

    @property
    def off_policy(self) -> bool:
        """Whether tokens may be of an older policy than the one that learns from them."""
        return self.ahead > 0 or self.step_tokens > 0 or self.step_seconds > 0


@dataclass(frozen=True, slots=True)
class GrpoRecipe:
    """A GRPO run with low-rank weights.

    `model`: a model reference. `output`: the folder of the run. `questions` problems a step with `group_size` rollouts
    each, of at most `max_tokens`, at `temperature`, updated in `minibatches` parts (1: strictly on-policy).
    `micro_tokens`: rows of one forward and backward. `rate`, `warmup_steps`: learning rate, constant after the warm-up.
    """

    model: str
    output: str
    steps: int
    sources: tuple[Source, ...]
    lora: LoraSettings
    rate: float
    warmup_steps: int = 5
    questions: int = 8
    group_size: int = 8
    max_tokens: int = 256
    temperature: float = 1.0
    minibatches: int = 1
    micro_tokens: int = 2048
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    rollouts: RolloutSettings = field(default_factory=RolloutSettings)
    rewards: RewardSettings = field(default_factory=RewardSettings)
    dialect: str | None = None
    system: str | None = None
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    runner: Literal["auto", "native", "torch"] = "auto"
    threads: int | None = None
    optimizer: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(weight_decay=0.0))
    seed: int = 0
    checkpoints: CheckpointSettings = field(default_factory=lambda: CheckpointSettings(every=10))
    anomalies: AnomalySettings = field(default_factory=AnomalySettings)
    price_usd: float = 0.0

    def __post_init__(self) -> None:
        require(bool(self.sources), "sources names at least one source of problems")
        require(self.steps >= 1 and self.questions >= 1, "steps and questions are at least 1")
        require(self.group_size >= 2, "group_size is at least 2: a single rollout has nothing to be compared with")
        require(1 <= self.minibatches <= self.questions, "minibatches lies between 1 and questions")
        require(self.rate > 0 and self.temperature > 0, "rate and temperature are above 0")
        if self.rollouts.off_policy:
            require(self.objective.importance_cap > 0, "older rollouts need importance_cap above 0")
            require(self.temperature == 1.0, "older rollouts need temperature 1: their log-probabilities are of that")
        require(self.max_tokens >= 2 and self.micro_tokens >= 1, "max_tokens is at least 2, micro_tokens at least 1")

    def to_json(self) -> dict[str, Any]:
        """All keys, with the defaults filled in."""
        return asdict(self)


def read_grpo_recipe(file: Path, overrides: Sequence[str] = ()) -> GrpoRecipe:
    """Read a recipe; raises RecipeError, which names the key and the nearest known one."""
    return from_table(GrpoRecipe, read_toml(file, overrides), file.name)
