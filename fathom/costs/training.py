"""What training costs: operations, GPU hours, money; every assumption is an argument or a stated constant."""

from collections.abc import Mapping
from dataclasses import dataclass

from fathom.costs.model import training_flops_per_token
from fathom.models import ModelConfig

# Dense bfloat16 peak in operations per second, from NVIDIA's data sheets (SXM parts, without sparsity).
PEAK_FLOPS: Mapping[str, float] = {
    "a100": 312e12,
    "h100": 989e12,
    "h200": 989e12,
    "h800": 989e12,
    "b200": 2250e12,
}

# The share of the peak that V3's published hours amount to when operations are counted as here (tests/costs). It was
# reached with FP8 on 2,048 GPUs; other programs report 33-39% for dense 8B models and far less for mixtures.
DEFAULT_MFU = 0.40

# What V3's report assumes for one H800 hour (table 1).
DEFAULT_PRICE_USD = 2.0


@dataclass(frozen=True)
class TrainingCost:
    """One training run, planned."""

    tokens: float
    sequence_length: int
    flops_per_token: int
    gpu: str
    mfu: float
    price_usd: float
    train_gpu_hours: float
    train_cost_usd: float


def training_cost(
    config: ModelConfig,
    tokens: float,
    *,
    gpu: str = "h800",
    mfu: float = DEFAULT_MFU,
    price_usd: float = DEFAULT_PRICE_USD,
    sequence_length: int = 4096,
) -> TrainingCost:
    """Plan a run over `tokens` tokens.

    Args:
        config: the model.
        tokens: how many tokens it is trained on.
        gpu: a key of PEAK_FLOPS.
        mfu: the share of the bfloat16 peak reached, 0 to 1.
        price_usd: of one GPU hour.
        sequence_length: tokens a sequence, which attention's share depends on.

    Raises:
        ValueError: an unknown GPU, or a number that makes no sense.

    """
    if gpu not in PEAK_FLOPS:
        raise ValueError(f"no peak is known for {gpu!r}; known are {', '.join(PEAK_FLOPS)}")
    if not 0 < mfu <= 1:
        raise ValueError(f"mfu is a share of the peak between 0 and 1, not {mfu}")
    if not (tokens > 0 and price_usd >= 0 and sequence_length > 0):
        raise ValueError("tokens and sequence_length must be positive and the price not negative")
    per_token = training_flops_per_token(config, sequence_length)
    hours = tokens * per_token / (PEAK_FLOPS[gpu] * mfu) / 3600
    return TrainingCost(tokens, sequence_length, per_token, gpu, mfu, price_usd, hours, hours * price_usd)
