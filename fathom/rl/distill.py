"""Distillation and rejection sampling: a teacher answers problems, verifiers keep what is right, a student learns it.

The teacher is a local model (with an adapter or not; the student itself for rejection sampling, R1's third stage) or
any OpenAI-compatible endpoint. What it wrote is kept as JSONL of conversations, so a run goes on where it was stopped.
"""

import json
import os
import random
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from fathom.checkpoints.adapters import read_adapter
from fathom.checkpoints.writing import write_json
from fathom.data.errors import RecipeError
from fathom.data.typed import from_table, read_toml
from fathom.engine import Engine
from fathom.engine.loading import load
from fathom.engine.policy import choose_device, choose_limits
from fathom.rl.cold_start import conversation, write_jsonl
from fathom.rl.grpo_recipe import GrpoRecipe, Source
from fathom.rl.problems import Problem
from fathom.rl.rewards import Said, repetition, well_formed
from fathom.rl.rollouts import END_OF_THOUGHT, IN_FLIGHT, Sampling, generate
from fathom.rl.tasks import load_tasks
from fathom.rl.verifiers import verify
from fathom.training.recipe import require
from fathom.training.sft_recipe import SftRecipe

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Teacher:
    """`model`: a model reference, or the name that the endpoint `url` (".../v1") knows. `adapter`: a folder, from the
    recipe's. `dialect`: how conversations are written. `key_variable`: the environment variable with the API key.
    """

    model: str
    adapter: str | None = None
    dialect: str | None = None
    url: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    threads: int | None = None

    def __post_init__(self) -> None:
        require(self.url is None or self.adapter is None, "an endpoint takes no adapter")


@dataclass(frozen=True, slots=True)
class DistillRecipe:
    """`samples` answers of the teacher to each problem, at most `keep` right ones of a problem kept (the shortest).

    Problems are asked in an order drawn from the seed, for at most `minutes` (0: all of them; a later call goes on).
    `student`: a fine-tuning run on what was kept; its `data.files` may be left empty, the kept file is put first.
    `on_policy`: instead of all that, a run whose student answers itself and learns the teacher's probabilities of its
    own tokens; a local teacher with the same vocabulary.
    """

    teacher: Teacher
    output: str = ""
    sources: tuple[Source, ...] = ()
    student: SftRecipe | None = None
    on_policy: GrpoRecipe | None = None
    samples: int = 4
    keep: int = 1
    max_tokens: int = 512
    temperature: float = 0.8
    minutes: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.minutes >= 0, "minutes is not below 0")
        if self.on_policy is not None:
            require(self.teacher.url is None, "on_policy needs the teacher's probabilities: a local model, no url")
            require(not self.sources and self.student is None, "with on_policy, sources and student stand in its table")
            return
        require(bool(self.output), "output names the folder of what is kept")
        require(bool(self.sources), "sources names at least one source of problems")
        require(1 <= self.keep <= self.samples, "keep lies between 1 and samples")
        require(self.max_tokens >= 2 and self.temperature > 0, "max_tokens is at least 2, temperature above 0")


class Kept(NamedTuple):
    """What came of it. `file` holds the conversations; `asked` of the problems were."""

    file: Path
    problems: int
    asked: int
    solved: int
    kept: int
    failed: int


@dataclass(slots=True)
class _Progress:
    asked: int = 0
    solved: int = 0
    failed: int = 0
    lines: list[dict[str, Any]] = field(default_factory=list)


def read_distill_recipe(file: Path, overrides: Sequence[str] = ()) -> DistillRecipe:
    """Read a recipe; raises RecipeError, which names the key and the nearest known one."""
    return from_table(DistillRecipe, read_toml(file, overrides), file.name)


def distill(recipe: DistillRecipe, base: Path, *, say: Say = print) -> Kept:
    """Have the teacher answer and keep what is right; goes on where an earlier call of the same recipe was stopped.

    Raises:
        RecipeError: the output belongs to another recipe. OSError: the endpoint does not answer.

    """
    folder = base / recipe.output
    questions = [
        problem
        for source in recipe.sources
        for found in load_tasks(
            source.task, None if ".jsonl" in source.task else source.count, split="train", base=base
        ).values()
        for problem in found
    ]
    random.Random(recipe.seed).shuffle(questions)  # of every source, however early it is stopped
    state = _load(folder, recipe)
    end = time.monotonic() + 60 * recipe.minutes if recipe.minutes else float("inf")
    size = max(1, IN_FLIGHT // recipe.samples)  # problems between two writes: what a stop costs at most
    if state.asked < len(questions):
        with _open(recipe, base) as ask:
            for start in range(state.asked, len(questions), size):
                if time.monotonic() >= end:
                    say(f"stopped after {recipe.minutes:g} minutes; the same call goes on")
                    break
                wave = questions[start : start + size]
                for problem, answers in zip(wave, ask(wave, start), strict=True):
                    right, failed = _right(problem, answers)
                    state.failed += failed
                    state.solved += bool(right)
                    chosen = right[: recipe.keep]
                    state.lines += [conversation(problem.question, said.thought, said.answer) for said in chosen]
                state.asked = start + len(wave)
                _store(folder, recipe, state)
                say(f"{state.asked} of {len(questions)} problems: {state.solved} solved, {len(state.lines)} kept")
    return Kept(folder / "kept.jsonl", len(questions), state.asked, state.solved, len(state.lines), state.failed)


def _right(problem: Problem, answers: Sequence[Said]) -> tuple[list[Said], int]:
    """The right, well-formed answers, the shortest first, and how many could not be judged (R1, section 2.3.3: mixed or
    looping thoughts are dropped).
    """
    found, failed = [], 0
    for said in answers:
        if not said.closed or said.cut_off or not well_formed(said.thought, said.answer):
            continue
        if repetition(f"{said.thought}\n{said.answer}") > 0.1:
            continue
        verdict = verify(problem, said.answer)
        failed += verdict.score is None
        if verdict.right:
            found.append(said)
    return sorted(found, key=lambda said: len(said.thought)), failed


Ask = Callable[[Sequence[Problem], int], list[list[Said]]]


class _open:  # noqa: N801 - a context manager used like a function
    """The teacher: from problems and the number of the first one to groups of answers."""

    def __init__(self, recipe: DistillRecipe, base: Path) -> None:
        self._recipe, self._base = recipe, base
        self._engine: Engine | None = None

    def __enter__(self) -> Ask:
        teacher = self._recipe.teacher
        if teacher.url is not None:
            return self._from_endpoint
        ref = str(self._base / teacher.model) if (self._base / teacher.model).exists() else teacher.model
        limits = replace(choose_limits(choose_device("auto")[0]), stretch=0.0)  # nobody waits for a next token
        self._engine = load(ref, threads=teacher.threads, speculation="off", limits=limits, dialect=teacher.dialect)
        if teacher.adapter is not None:
            self._engine.add_adapter("teacher", read_adapter(self._base / teacher.adapter).adapter)
        return self._from_engine

    def __exit__(self, *_: object) -> None:
        if self._engine is not None:
            self._engine.close()

    def _from_engine(self, wave: Sequence[Problem], first: int) -> list[list[Said]]:
        assert self._engine is not None
        recipe = self._recipe
        adapter = "teacher" if recipe.teacher.adapter is not None else None
        style = "think" if self._engine.template.thinks else "plain"
        sampling = Sampling(recipe.max_tokens, recipe.temperature, style=style, adapter=adapter)  # type: ignore[arg-type]
        groups = generate(self._engine, wave, recipe.samples, sampling, recipe.seed * 100_003 + first)
        return [[rollout.said for rollout in group] for group in groups]

    def _from_endpoint(self, wave: Sequence[Problem], first: int) -> list[list[Said]]:
        recipe = self._recipe
        with ThreadPoolExecutor(8) as pool:
            jobs = [
                [pool.submit(ask_endpoint, recipe, problem.question, first + place) for place in range(recipe.samples)]
                for problem in wave
            ]
            return [[job.result() for job in group] for group in jobs]


def ask_endpoint(recipe: DistillRecipe, question: str, seed: int) -> Said:
    """One answer of an OpenAI-compatible endpoint; the thought from `reasoning_content` or from tags in the text."""
    teacher = recipe.teacher
    body = {
        "model": teacher.model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": recipe.max_tokens,
        "temperature": recipe.temperature,
        "seed": seed,
    }
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(teacher.key_variable):
        headers["Authorization"] = f"Bearer {key}"
    url = f"{teacher.url}/chat/completions"
    if not url.startswith(("http://", "https://")):
        raise RecipeError(f"teacher.url is {teacher.url!r}; it begins with http:// or https://")
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=600) as response:
        choice = json.load(response)["choices"][0]
    message, cut_off = choice["message"], choice.get("finish_reason") == "length"
    text, thought = message.get("content") or "", message.get("reasoning_content")
    if thought is None and END_OF_THOUGHT in text:
        thought, _, text = text.partition(END_OF_THOUGHT)
        thought = thought.removeprefix("<think>")
    return Said((thought or "").strip(), text.strip(), closed=bool(text.strip()), cut_off=cut_off)


def _load(folder: Path, recipe: DistillRecipe) -> _Progress:
    file = folder / "state.json"
    if not file.is_file():
        return _Progress()
    state = json.loads(file.read_text(encoding="utf-8"))
    if state["recipe"] != _identity(recipe):
        raise RecipeError(f"{folder} holds the answers of another recipe: choose another output, or remove it")
    lines = list(_lines(folder / "kept.jsonl"))[: state["kept"]]
    return _Progress(state["asked"], state["solved"], state["failed"], lines)


def _store(folder: Path, recipe: DistillRecipe, state: _Progress) -> None:
    write_jsonl(folder / "kept.jsonl", state.lines)
    counts = {"asked": state.asked, "solved": state.solved, "failed": state.failed, "kept": len(state.lines)}
    write_json(folder / "state.json", {"recipe": _identity(recipe), **counts})


def _identity(recipe: DistillRecipe) -> Any:
    """What must be the same for two calls to be one run."""
    values = asdict(recipe)
    values.pop("student")
    values.pop("minutes")
    values.pop("on_policy")
    return json.loads(json.dumps(values))


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)
