"""What DeepSeek published about sizes and costs, as data, for tests and for tables beside our own figures."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedSize:
    """Parameters in billions, with the digits that were printed."""

    total_billions: float
    active_billions: float
    source: str


SIZES: Mapping[str, PublishedSize] = {
    "v2-lite": PublishedSize(15.7, 2.4, "DeepSeek-V2 report, appendix B"),
    "v2": PublishedSize(236, 21, "DeepSeek-V2 report, abstract"),
    "v2.5": PublishedSize(236, 21, "DeepSeek-V2 report, abstract"),
    "v3": PublishedSize(671, 37, "DeepSeek-V3 report, abstract"),
    "r1": PublishedSize(671, 37, "DeepSeek-R1 report"),
}

V3_CHECKPOINT_BYTES = 688_574_839_360  # all tensors of the released FP8 files
V3_CACHE_BYTES_PER_TOKEN = 70_272  # bfloat16: 61 layers of 512 + 64 elements
V2_CACHE_ELEMENTS_PER_TOKEN = 34_560  # "34.6K" in DeepSeek-V2's table 9


@dataclass(frozen=True)
class PublishedTraining:
    """One stage of V3's training (report, table 1), in H800 hours; at the report's 2 USD an hour."""

    stage: str
    gpu_hours: int
    cost_usd: int


V3_PRETRAINING_TOKENS = 14.8e12
V3_TRAINING: tuple[PublishedTraining, ...] = (
    PublishedTraining("pre-training", 2_664_000, 5_328_000),
    PublishedTraining("context extension", 119_000, 238_000),
    PublishedTraining("post-training", 5_000, 10_000),
)
V2_GPU_HOURS_PER_TRILLION = 172_800  # DeepSeek-V2 report, section 3.2.3
V3_GPU_HOURS_PER_TRILLION = 180_000  # DeepSeek-V3 report, section 1
# DeepSeek 67B, which the V2 report compares with (section 3.2.3); its cache: 95 layers, 8 key heads of 128.
DEEPSEEK_67B_GPU_HOURS_PER_TRILLION = 300_600
DEEPSEEK_67B_CACHE_BYTES_PER_TOKEN = 95 * 2 * 8 * 128 * 2  # bfloat16
V2_CACHE_BITS = 6  # "quantized to 6 bits on average" in serving (V2, section 3.2.3)
# R1-Zero and R1 together, with data (Nature 645, supplementary table 4), at 2 USD an hour.
R1_GPU_HOURS, R1_COST_USD = 147_000, 294_000


def published_table(ref: str) -> tuple[PublishedTraining, ...]:
    """The stages that were published for a preset, the sum last; empty where none were."""
    stages = {
        "v3": V3_TRAINING,
        "r1": (PublishedTraining("R1-Zero and R1, after V3-Base", R1_GPU_HOURS, R1_COST_USD),),
    }.get(ref, ())
    if len(stages) < 2:
        return stages
    hours, cost = sum(one.gpu_hours for one in stages), sum(one.cost_usd for one in stages)
    return (*stages, PublishedTraining("total", hours, cost))


def v2_savings() -> tuple[float, float]:
    """What V2 saves against DeepSeek 67B: share of GPU hours per trillion tokens, and of cache bytes per token."""
    hours = 1 - V2_GPU_HOURS_PER_TRILLION / DEEPSEEK_67B_GPU_HOURS_PER_TRILLION
    cache = V2_CACHE_ELEMENTS_PER_TOKEN * V2_CACHE_BITS / 8
    return hours, 1 - cache / DEEPSEEK_67B_CACHE_BYTES_PER_TOKEN
