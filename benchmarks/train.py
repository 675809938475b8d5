"""Our training step beside transformers' DeepseekV3 in a plain PyTorch loop, and beside a dense twin at equal compute.

    .venv/bin/python benchmarks/train.py                     # as in docs/performance.md
    .venv/bin/python benchmarks/train.py --rounds 5 --threads 1 --json

One process, the same config, dtype, batch and optimiser's arithmetic, taken in turn (A B C A B C ...), so that a change
in the machine's speed meets all of them. Printed: medians in tokens per second, and ratios pair by pair as medians.
transformers has no multi-token prediction, so all of them run without the prediction module; the last line has it.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from fathom.models import ModelConfig
from fathom.training.benchmark import Steps, default_recipe, dense_recipe
from fathom.training.machine import matrix_rate
from fathom.training.optimizer import DTYPES
from fathom.training.recipe import Recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    parser.add_argument("--only", nargs="*", help="names to measure")
    parser.add_argument("--json", action="store_true", help="one JSON object last")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with_module = default_recipe(tuple(arguments.set))
    recipe = replace(with_module, model=replace(with_module.model, num_nextn_predict_layers=0), prediction=None)
    contenders: dict[str, Callable[[], Callable[[], None]]] = {
        "fathom": lambda: Steps(recipe).take,
        "transformers": lambda: transformers_step(recipe),
        "fathom, dense twin": lambda: Steps(dense_recipe(recipe)).take,
        "fathom, with prediction module": lambda: Steps(with_module).take,
    }
    chosen = {name: make() for name, make in contenders.items() if not arguments.only or name in arguments.only}
    times = measure(chosen, arguments.rounds)
    tokens = recipe.batch.sequences * recipe.data.sequence_length
    result = {
        "tokens_per_second": {name: tokens / statistics.median(values) for name, values in times.items()},
        "ratio_to_fathom": {
            name: statistics.median(ours / theirs for ours, theirs in zip(times["fathom"], values, strict=True))
            for name, values in times.items()
            if "fathom" in times
        },
        "matrix_rate": matrix_rate(DTYPES[recipe.precision]),
        "dtype": recipe.precision,
        "threads": arguments.threads,
        "tokens_per_step": tokens,
    }
    for name, speed in result["tokens_per_second"].items():
        ratio = result["ratio_to_fathom"].get(name, float("nan"))
        print(f"{name:<32} {speed:>10,.0f} tokens/s   {ratio:>6.2f} x fathom's speed")
    if arguments.json:
        print(json.dumps(result))


def measure(contenders: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of one step, in turn; the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, step in contenders.items():
            start = time.perf_counter()
            step()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def transformers_step(recipe: Recipe) -> Callable[[], None]:
    """What a careful user writes: its model in bfloat16, its grouped experts, AdamW in float32 as torch has it."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    config = DeepseekV3Config(**hf_config(recipe.model))
    config._attn_implementation = "sdpa"
    model = DeepseekV3ForCausalLM(config).to(DTYPES[recipe.precision]).train()
    settings = recipe.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.schedule.peak,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    tokens = torch.randint(recipe.model.vocab_size, (recipe.batch.sequences, recipe.data.sequence_length))

    def step() -> None:
        parts = torch.split(tokens, recipe.batch.micro_sequences)
        for part in parts:
            (model(input_ids=part, labels=part, use_cache=False).loss / len(parts)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()

    return step


def hf_config(model: ModelConfig) -> dict[str, object]:
    table = model.to_hf()
    table.pop("architectures", None)
    return table


if __name__ == "__main__":
    main()
