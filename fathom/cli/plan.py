"""`fathom plan`: what a model costs to train and to serve, computed from its config."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fathom.cli.describe import describe
from fathom.cli.errors import CommandError
from fathom.cli.terminal import answer, answer_json, human_bytes, human_count, note
from fathom.costs.model import forward_flops_per_token, model_costs, weights_bytes
from fathom.costs.published import (
    DEEPSEEK_67B_GPU_HOURS_PER_TRILLION,
    V2_GPU_HOURS_PER_TRILLION,
    published_table,
    v2_savings,
)
from fathom.costs.training import DEFAULT_MFU, DEFAULT_PRICE_USD, PEAK_FLOPS, TrainingCost, training_cost
from fathom.models import ModelConfig

DESCRIPTION = (
    "Say what a model costs to train and to serve: operations, GPU hours, money, bytes; computed, and beside it what "
    "was published. With a recipe (.toml): what that run will take here, from steps measured for a minute."
)
EXAMPLE = "fathom plan v3 --tokens 14.8T --gpu h800 --price 2\n  fathom plan recipes/v3-nano.toml --set tokens=20000000"
# Pre-training tokens: V3 report, section 1; V2 report, section 3.1.1 and appendix B.
PUBLISHED_TOKENS = {"v3": 14.8e12, "r1": 14.8e12, "v2": 8.1e12, "v2.5": 8.1e12, "v2-lite": 5.7e12}
_SIZES = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model and the assumptions."""
    parser.add_argument(
        "ref", metavar="PRESET_OR_CONFIG", help="v2-lite, v2, v3, r1 ..., a config.json, a model, a recipe"
    )
    parser.add_argument(
        "--tokens",
        type=token_count,
        metavar="N",
        help="training tokens, such as 14.8T (default: 20 per active parameter)",
    )
    parser.add_argument("--gpu", default="h800", choices=sorted(PEAK_FLOPS), help="what it trains on (default h800)")
    parser.add_argument(
        "--price", type=float, default=DEFAULT_PRICE_USD, metavar="USD", help="of a GPU hour (default 2)"
    )
    parser.add_argument("--mfu", type=float, default=DEFAULT_MFU, help="share of the BF16 peak reached (default 0.40)")
    parser.add_argument("--sequence-length", type=int, default=4096, metavar="T", help="of training (default 4096)")
    parser.add_argument("--seconds", type=float, default=60.0, help="to measure, with a recipe (default 60)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def token_count(text: str) -> float:
    """14.8T -> 14.8e12; plain numbers are taken as they are."""
    scale = _SIZES.get(text[-1:].upper(), 1.0)
    return float(text[:-1] if scale != 1.0 else text) * scale


def run(arguments: argparse.Namespace) -> int:
    """Compute and print."""
    if arguments.ref.endswith(".toml"):
        return _measured(arguments)
    model = describe(arguments.ref)
    tokens = (
        arguments.tokens or PUBLISHED_TOKENS.get(arguments.ref) or 20.0 * model_costs(model.config).parameters_active
    )
    try:
        cost = training_cost(
            model.config,
            tokens,
            gpu=arguments.gpu,
            mfu=arguments.mfu,
            price_usd=arguments.price,
            sequence_length=arguments.sequence_length,
        )
    except ValueError as error:
        raise CommandError(str(error), code=2) from error
    report = report_of(arguments.ref, model.config, cost)
    if arguments.json:
        answer_json(report)
    else:
        for line in _lines(report):
            answer(line)
    return 0


def _measured(arguments: argparse.Namespace) -> int:
    """Forecast a run of a recipe from steps taken here."""
    from fathom.training.benchmark import forecast
    from fathom.training.recipe import read_recipe

    recipe = read_recipe(Path(arguments.ref), arguments.set)
    note(f"measuring for {arguments.seconds:.0f} s ...")
    report = forecast(recipe, seconds=arguments.seconds).to_json()
    if arguments.json:
        answer_json({"ref": arguments.ref, **report})
        return 0
    answer(f"speed        {report['tokens_per_second']:,.0f} tokens/s, {report['mfu']:.1%} of the matrix rate here")
    answer(f"length       {report['tokens']:,} tokens in {report['steps']:,} steps")
    answer(
        f"training     {report['hours']:.2f} hours, ${report['cost_usd']:.2f}; {report['looks']} looks at held-out text"
    )
    return 0


def report_of(ref: str, config: ModelConfig, cost: TrainingCost) -> dict[str, Any]:
    """The object of --json."""
    costs = model_costs(config)
    weights = {"bfloat16": weights_bytes(config, "bfloat16")}
    if config.quantization_config is not None:
        weights["fp8"] = weights_bytes(config, "fp8")
    return {
        "ref": ref,
        "parameters_total": costs.parameters_total,
        "parameters_active": costs.parameters_active,
        "cache_bytes_per_token": costs.cache_bytes_per_token,
        "weights_bytes": weights,
        "components": {part.name: part.total for part in costs.components},
        "forward_flops_per_token": forward_flops_per_token(config, cost.sequence_length),
        "train_flops_per_token": cost.flops_per_token,
        "train_tokens": cost.tokens,
        "train_gpu_hours": cost.train_gpu_hours,
        "train_cost_usd": cost.train_cost_usd,
        "published": [asdict(stage) for stage in published_table(ref)],
        "assumptions": {
            "gpu": cost.gpu,
            "peak_flops": PEAK_FLOPS[cost.gpu],
            "mfu": cost.mfu,
            "price_usd_per_gpu_hour": cost.price_usd,
            "sequence_length": cost.sequence_length,
        },
    }


def _lines(report: dict[str, Any]) -> list[str]:
    total, active = report["parameters_total"], report["parameters_active"]
    assumed = report["assumptions"]
    weights = ", ".join(f"{human_bytes(size)} in {name}" for name, size in report["weights_bytes"].items())
    cache = report["cache_bytes_per_token"]
    operations, gpu = human_count(report["train_flops_per_token"]), assumed["gpu"].upper()
    return [
        f"parameters   {human_count(total)} total, {human_count(active)} active per token",
        *(f"  {name:<26} {human_count(size):>8}" for name, size in report["components"].items()),
        f"weights      {weights}",
        f"cache        {cache:,} bytes per token; {human_bytes(cache * 131072)} for 128K tokens",
        f"training     {human_count(report['train_tokens'])} tokens x {operations} FLOP",
        f"             {report['train_gpu_hours']:,.0f} {gpu} hours, ${report['train_cost_usd']:,.0f}",
        *(
            f"published    {one['stage']:<30} {one['gpu_hours']:>10,} H800 hours  ${one['cost_usd']:>10,}"
            for one in report["published"]
        ),
        *_published_v2(report["ref"]),
        f"assumed      {assumed['mfu']:.0%} of {assumed['peak_flops'] / 1e12:.0f} TFLOPS, "
        f"${assumed['price_usd_per_gpu_hour']:g} an hour, sequences of {assumed['sequence_length']} tokens",
    ]


def _published_v2(ref: str) -> list[str]:
    if ref != "v2":
        return []
    hours, cache = v2_savings()
    return [
        f"published    {V2_GPU_HOURS_PER_TRILLION:,} H800 hours per trillion tokens, DeepSeek 67B "
        f"{DEEPSEEK_67B_GPU_HOURS_PER_TRILLION:,} (-{hours:.1%}); cache -{cache:.1%}"
    ]
