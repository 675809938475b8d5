"""`fathom train`: pre-training, supervised fine-tuning, and what reinforcement learning adds, each by a recipe."""

import argparse
from pathlib import Path

from fathom.cli.terminal import answer, answer_json, note

DESCRIPTION = (
    "Train a model. `pretrain RECIPE` takes token shards (fathom data prepare) to a model that Fathom and other "
    "engines load; `sft RECIPE` teaches a model conversations, as an adapter or in all its weights; `grpo RECIPE` lets "
    "it find its own thoughts by reinforcement on problems whose answers can be checked; `distill RECIPE` keeps a "
    "teacher's right answers and has a student learn them; `r1 RECIPE` runs all stages of R1. A run may be stopped at "
    "any moment; --resume goes on to the same weights, bit for bit."
)
EXAMPLE = (
    "fathom train pretrain recipes/v3-nano.toml --set tokens=2000000 --resume\n"
    "  fathom train sft recipes/sft-lora.toml --set data.files='[\"chats.jsonl\"]'"
)
_ACTIONS = {
    "pretrain": ("a model from token shards, as a recipe says", "docs/training.md"),
    "grpo": ("an adapter by reinforcement from verifiable rewards, as a recipe says", "docs/rl.md"),
    "distill": ("a teacher's right answers, and a student that learns them", "docs/rl.md"),
    "r1": ("all stages of R1, in order, from one file", "docs/rl.md"),
    "sft": ("a model or adapter from conversations, as a recipe says", "docs/rl.md"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One action for each kind of training; all take a recipe."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(_ACTIONS))
    for name, (about, page) in _ACTIONS.items():
        action = actions.add_parser(name, help=about)
        action.add_argument("recipe", type=Path, metavar="RECIPE", help=f"a TOML file; {page} explains every key")
        action.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key, such as batch.tokens=4096"
        )
        action.add_argument("--resume", action="store_true", help="go on from the newest checkpoint, if there is one")
        action.add_argument("--json", action="store_true", help="one JSON object last")
        action.add_argument("--debug", action="store_true", help="show the traceback of a failure")


def run(arguments: argparse.Namespace) -> int:
    """Do the action."""
    return {"pretrain": _pretrain, "sft": _sft, "grpo": _grpo, "distill": _distill, "r1": _r1}[arguments.action](
        arguments
    )


def _grpo(arguments: argparse.Namespace) -> int:
    from fathom.rl.grpo import GrpoTrainer
    from fathom.rl.grpo_metrics import GrpoMetrics
    from fathom.rl.grpo_recipe import read_grpo_recipe

    def show(metrics: GrpoMetrics) -> None:
        note(
            f"step {metrics.step}  reward {metrics.reward:.3f}  right {metrics.accuracy:.1%}  "
            f"silent groups {metrics.zero_advantage:.0%}  length {metrics.length:.0f}  entropy {metrics.entropy:.2f}  "
            f"mismatch {metrics.mismatch:.3f}  {metrics.rollout_seconds:.0f}+{metrics.training_seconds:.0f} s  "
            f"{metrics.tokens_per_second:,.0f} tokens/s  ${metrics.cost_usd:.2f}"
        )

    recipe = read_grpo_recipe(arguments.recipe, arguments.set)
    trainer = GrpoTrainer(recipe, arguments.recipe.parent, resume=arguments.resume, say=note)
    try:
        checkpoint = trainer.run(show)
    finally:
        trainer.close()
    last = trainer.history[-1] if trainer.history else {}
    if arguments.json:
        answer_json({"checkpoint": str(checkpoint), "steps": trainer.step, "seconds": trainer.seconds, "last": last})
        return 0
    answer(f"{trainer.step:,} steps, reward {last.get('reward', 0.0):.3f}: {checkpoint}")
    return 0


def _distill(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from fathom.rl.distill import distill, read_distill_recipe
    from fathom.training.sft import SftTrainer

    recipe = read_distill_recipe(arguments.recipe, arguments.set)
    if recipe.on_policy is not None:
        from fathom.rl.on_policy import OnPolicyTrainer

        teacher, base = recipe.teacher, arguments.recipe.parent
        options = {"resume": arguments.resume, "say": note}
        learner = OnPolicyTrainer(recipe.on_policy, teacher.model, teacher.adapter, base, **options)
        try:
            checkpoint = learner.run(lambda one: note(f"step {one.step}  KL {one.kl:.4f}  right {one.accuracy:.1%}"))
        finally:
            learner.close()
        last = learner.history[-1] if learner.history else {}
        if arguments.json:
            answer_json({"checkpoint": str(checkpoint), "steps": learner.step, "last": last})
            return 0
        answer(f"{learner.step:,} steps, KL to the teacher {last.get('kl', 0.0):.4f} nats a token: {checkpoint}")
        return 0
    kept = distill(recipe, arguments.recipe.parent, say=note)
    report = {**kept._asdict(), "file": str(kept.file)}
    if recipe.student is not None and kept.kept:
        data = replace(recipe.student.data, files=(str(kept.file.resolve()), *recipe.student.data.files))
        student = replace(recipe.student, data=data)
        trainer = SftTrainer(student, arguments.recipe.parent, resume=arguments.resume, say=note)
        report["checkpoint"] = str(trainer.run().checkpoint)
    if arguments.json:
        answer_json(report)
        return 0
    asked = f"{kept.asked} of {kept.problems} problems asked, {kept.solved} solved"
    answer(f"{asked}, {kept.kept} answers kept: {kept.file}")
    return 0


def _r1(arguments: argparse.Namespace) -> int:
    from fathom.rl.stages import read_r1_recipe, run_stages

    results = run_stages(read_r1_recipe(arguments.recipe, arguments.set), arguments.recipe.parent, say=note)
    if arguments.json:
        answer_json({name: str(path) for name, path in results.items()})
        return 0
    answer("\n".join(f"{name}: {path}" for name, path in results.items()))
    return 0


def _sft(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from fathom.training.sft import SftMetrics, SftTrainer
    from fathom.training.sft_recipe import read_sft_recipe

    def show(metrics: SftMetrics) -> None:
        note(
            f"step {metrics.step}  epoch {metrics.epoch:.2f}  loss {metrics.loss:.4f}  "
            f"{metrics.tokens_per_second:,.0f} tokens/s  ${metrics.cost_usd:.2f}"
        )

    recipe = read_sft_recipe(arguments.recipe, arguments.set)
    trainer = SftTrainer(recipe, arguments.recipe.parent, resume=arguments.resume, say=note)
    note(f"{len(trainer.batches.examples):,} examples to learn; {trainer.left_out} too long")
    summary = trainer.run(show)
    if arguments.json:
        answer_json({**asdict(summary), "checkpoint": str(summary.checkpoint)})
        return 0
    held_out = "" if summary.held_out_loss is None else f", held-out loss {summary.held_out_loss:.4f}"
    answer(f"{summary.steps:,} steps, {summary.tokens:,} tokens{held_out}: {summary.checkpoint}")
    return 0


def _pretrain(arguments: argparse.Namespace) -> int:
    """Train, showing the plan first and a bar meanwhile."""
    from fathom.training.metrics import ProgressBar
    from fathom.training.recipe import read_recipe
    from fathom.training.trainer import Trainer

    recipe = read_recipe(arguments.recipe, arguments.set)
    trainer = Trainer(recipe, arguments.recipe.parent, resume=arguments.resume, say=note)
    if not trainer.layout.is_main:  # another process of this run speaks
        trainer.run()
        return 0
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
