"""`fathom train`: pre-training by a recipe."""

import argparse
from pathlib import Path

from fathom.cli.terminal import answer, answer_json, note

DESCRIPTION = (
    "Train a model. `pretrain RECIPE` takes token shards (fathom data prepare) to a model that Fathom and other "
    "engines load. It may be stopped at any moment; --resume goes on to the same weights, bit for bit."
)
EXAMPLE = "fathom train pretrain recipes/v3-nano.toml --set tokens=2000000 --resume"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One action so far, with its flags."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="pretrain")
    pretrain = actions.add_parser("pretrain", help="a model from token shards, as a recipe says")
    pretrain.add_argument(
        "recipe", type=Path, metavar="RECIPE", help="a TOML file; docs/training.md explains every key"
    )
    pretrain.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key, such as batch.sequences=64"
    )
    pretrain.add_argument("--resume", action="store_true", help="go on from the newest checkpoint, if there is one")
    pretrain.add_argument("--json", action="store_true", help="one JSON object last")


def run(arguments: argparse.Namespace) -> int:
    """Train, showing the plan first and a bar meanwhile."""
    from fathom.training.metrics import ProgressBar
    from fathom.training.recipe import read_recipe
    from fathom.training.trainer import Trainer

    recipe = read_recipe(arguments.recipe, arguments.set)
    trainer = Trainer(recipe, arguments.recipe.parent, resume=arguments.resume, say=note)
    for line in trainer.plan.lines():
        note(line)
    bar = ProgressBar(trainer.plan, trainer.state.loader.tokens_seen)
    trainer.say = bar.say
    try:
        summary = trainer.run(bar.show)
    finally:
        bar.close()
    held_out = summary.evaluation
    if arguments.json:
        report = {
            "checkpoint": str(summary.checkpoint),
            "steps": summary.steps,
            "tokens": summary.tokens,
            "loss": summary.loss,
            "validation_loss": held_out.loss if held_out else None,
            "second_token_acceptance": held_out.acceptance if held_out else None,
            "seconds": summary.seconds,
            "cost_usd": summary.cost_usd,
            "parameters_total": trainer.plan.parameters_total,
            "parameters_active": trainer.plan.parameters_active,
        }
        answer_json(report)
        return 0
    loss = "-" if summary.loss is None else f"{summary.loss:.4f}"
    answer(f"{summary.steps:,} steps, {summary.tokens:,} tokens, loss {loss}: {summary.checkpoint}")
    return 0
