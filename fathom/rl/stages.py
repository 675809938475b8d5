"""R1's stages from one file: Zero, cold start, reasoning RL, rejection sampling and fine-tuning, RL on everything.

Each stage writes into its own folder and leaves `done.json` when it is complete, so a run goes on between stages by
these, and within a stage by the stage's own checkpoints.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fathom.checkpoints.writing import write_json
from fathom.data.errors import RecipeError
from fathom.data.typed import from_table, read_toml
from fathom.engine.loading import load
from fathom.rl.cold_start import from_solutions, general, general_prompts, worked, write_jsonl
from fathom.rl.distill import distill, read_distill_recipe
from fathom.rl.grpo import GrpoTrainer
from fathom.rl.grpo_metrics import GrpoMetrics
from fathom.rl.grpo_recipe import Source, read_grpo_recipe
from fathom.training.recipe import require
from fathom.training.sft import SftTrainer
from fathom.training.sft_recipe import read_sft_recipe

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Data of the first fine-tuning: worked thoughts of `per_task` problems of every trained task, the model's own
    general answers of up to `general_tokens` tokens (0: none), and a maths set's solutions: `solutions`, a file in
    GSM8K's form, of which the lines `first` to `last` are taken. Where it is missing the run says so and does without.
    """

    per_task: int = 700
    general_tokens: int = 300
    solutions: str | None = None
    first: int = 0
    last: int = 6973
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Stage:
    """`recipe`: its file, from this file's folder. `start`: the stage whose adapter it goes on from; left out, the bare
    model. `data`: the stages whose kept answers it learns too (kind `sft`).
    """

    name: str
    kind: Literal["sft", "grpo", "distill"]
    recipe: str
    start: str | None = None
    data: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class R1Recipe:
    """All stages, in order."""

    output: str
    model: str
    stages: tuple[Stage, ...]
    cold_start: ColdStart

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        require(len(set(names)) == len(names) and bool(names), "stages have names of their own")
        for place, stage in enumerate(self.stages):
            for other in (stage.start, *stage.data):
                known = other is None or other in names[:place]
                require(known, f"stage {stage.name} builds on {other!r}, which is no stage before it")


def read_r1_recipe(file: Path, overrides: Sequence[str] = ()) -> R1Recipe:
    """Read a recipe; raises RecipeError, which names the key and the nearest known one."""
    return from_table(R1Recipe, read_toml(file, overrides), file.name)


def run_stages(recipe: R1Recipe, base: Path, *, say: Say = print) -> dict[str, Path]:
    """Run what is not done yet; returns the result of every stage: an adapter's folder, or a file of kept answers."""
    output = (base / recipe.output).resolve()
    cold = _cold_start(recipe, base, output, say)
    results: dict[str, Path] = {}
    for stage in recipe.stages:
        done = output / stage.name / "done.json"
        if done.is_file():
            results[stage.name] = Path(json.loads(done.read_text(encoding="utf-8"))["result"])
            say(f"{stage.name}: done already")
            continue
        say(f"{stage.name}: {stage.kind}")
        results[stage.name] = _run(stage, recipe, base, output, results, cold, say)
        write_json(done, {"result": str(results[stage.name])})
    return results


def _run(
    stage: Stage, recipe: R1Recipe, base: Path, output: Path, results: dict[str, Path], cold: list[str], say: Say
) -> Path:
    file, folder = base / stage.recipe, str(output / stage.name)
    start = str(results[stage.start]) if stage.start is not None else None
    if stage.kind == "sft":
        sft = read_sft_recipe(file, [f"model='{recipe.model}'", f"output='{folder}'", "data.files=['cold-start']"])
        files = (*cold, *(str(results[name]) for name in stage.data))
        sft = replace(sft, data=replace(sft.data, files=files))
        if start is not None and sft.lora is not None:
            sft = replace(sft, lora=replace(sft.lora, start=start))
        return SftTrainer(sft, base, resume=True, say=say).run().checkpoint
    if stage.kind == "distill":
        asked = read_distill_recipe(file, [f"output='{folder}'", f"teacher.model='{recipe.model}'"])
        asked = replace(asked, teacher=replace(asked.teacher, adapter=start))
        return distill(replace(asked, sources=_present(asked.sources, base, say)), base, say=say).file
    grpo = read_grpo_recipe(file, [f"model='{recipe.model}'", f"output='{folder}'"])
    grpo = replace(grpo, sources=_present(grpo.sources, base, say))
    if start is not None:
        grpo = replace(grpo, lora=replace(grpo.lora, start=start))
    trainer = GrpoTrainer(grpo, base, resume=True, say=say)

    def show(metrics: GrpoMetrics) -> None:
        say(f"{stage.name} step {metrics.step}: reward {metrics.reward:.3f}, right {metrics.accuracy:.1%}")

    try:
        return trainer.run(show)
    finally:
        trainer.close()


def _present(sources: Sequence[Source], base: Path, say: Say) -> tuple[Source, ...]:
    """The sources that are at hand; files that are not are said and left out."""
    found = []
    for source in sources:
        file = base / source.task.partition("[")[0]
        if ".jsonl" in source.task and not file.is_file():
            say(f"{file} is not at hand: going on without it")
            continue
        found.append(source)
    if not found:
        raise RecipeError("none of the stage's sources of problems is at hand")
    return tuple(found)


def _cold_start(recipe: R1Recipe, base: Path, output: Path, say: Say) -> list[str]:
    """Write the cold start's files once and return them."""
    settings, folder = recipe.cold_start, output / "data"
    files = [folder / "worked.jsonl"]
    if not files[0].is_file():
        write_jsonl(files[0], worked(settings.per_task, settings.seed))
    if settings.general_tokens:
        files.append(folder / "general.jsonl")
        if not files[-1].is_file():
            with load(recipe.model, dialect="chatml") as engine:
                prompts = general_prompts(settings.seed)
                write_jsonl(files[-1], general(engine, prompts, settings.general_tokens))
    if settings.solutions is not None:
        source = base / settings.solutions
        if source.is_file():
            files.append(folder / "solutions.jsonl")
            write_jsonl(files[-1], from_solutions(source, settings.first, settings.last))
        else:
            say(f"{source} is not at hand: the cold start is on generated problems and the model's own answers alone")
    return [str(file) for file in files]
