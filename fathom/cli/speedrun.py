"""`fathom speedrun`: raw text to a chat model with a report, in one command."""

import argparse
from dataclasses import asdict
from pathlib import Path

from fathom.cli.errors import CommandError
from fathom.cli.terminal import answer, answer_json, note

DESCRIPTION = (
    "Go from raw text to a chat model: an open corpus from package registries, a vocabulary, shards, pre-training of a "
    "DeepSeek-V3 small enough for this machine (latent attention, experts, multi-token prediction), fine-tuning on "
    "conversations, a report page. As many tokens as fit into the time. Stopped anywhere, the same command goes on."
)
EXAMPLE = "fathom speedrun --preset cpu --output runs-out/speedrun --minutes 45"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where, and how long."""
    parser.add_argument("--preset", choices=["cpu"], default="cpu", help="the machine it is meant for (default cpu)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs-out/speedrun"), metavar="DIR", help="default runs-out/speedrun"
    )
    parser.add_argument("--minutes", type=float, default=45.0, help="for all of it (default 45)")
    parser.add_argument("--tokens", type=int, metavar="N", help="of pre-training (default: as many as fit)")
    parser.add_argument("--megabytes", type=float, default=60.0, metavar="MB", help="of text, at most (default 60)")
    parser.add_argument("--json", action="store_true", help="one JSON object last")


def run(arguments: argparse.Namespace) -> int:
    """Do all stages, with a bar for the long one."""
    from fathom.training.metrics import ProgressBar, StepMetrics
    from fathom.training.speedrun import Speedrun
    from fathom.training.trainer import Trainer

    if arguments.minutes <= 0 or arguments.megabytes <= 0 or (arguments.tokens or 1) <= 0:
        raise CommandError("--minutes, --megabytes and --tokens are above 0", code=2)
    bars: list[ProgressBar] = []

    def on_step(trainer: Trainer, metrics: StepMetrics) -> None:
        if not bars:
            before = metrics.tokens - metrics.sequences * trainer.recipe.data.sequence_length
            bars.append(ProgressBar(trainer.plan, before))
        bars[0].show(metrics)

    limits = {"minutes": arguments.minutes, "tokens": arguments.tokens, "megabytes": arguments.megabytes}
    run = Speedrun(arguments.output, preset=arguments.preset, say=note, on_step=on_step, **limits)
    try:
        result = run.run()
    finally:
        for bar in bars:
            bar.close()
    if arguments.json:
        answer_json({**asdict(result), "model": str(result.model), "report": str(result.report)})
        return 0
    answer(f"the model:  {result.model}")
    answer(f"the report: {result.report}")
    answer(f"talk to it: fathom chat --model {result.model}")
    return 0
