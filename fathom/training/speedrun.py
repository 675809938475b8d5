"""Raw text to a chat model in one go: corpus, vocabulary, shards, pre-training, fine-tuning, report.

Every stage leaves its result in the folder and is skipped when that is there, so that a run that was stopped goes on.
The number of tokens is chosen from a measurement of this machine so that the whole fits into the time given.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fathom.checkpoints.writing import write_json
from fathom.data.conversations import make_conversations
from fathom.data.demo import assemble, catalogue, select
from fathom.data.prepare import prepare
from fathom.data.recipe import read_recipe as read_data_recipe
from fathom.data.sampling import sample_recipe
from fathom.text.training import save_tokenizer, train_tokenizer
from fathom.training.benchmark import measure_training
from fathom.training.checkpoint import checkpoints
from fathom.training.metrics import StepMetrics
from fathom.training.recipe import Recipe, read_recipe, recipe_path
from fathom.training.report import Sample, Section, write_report
from fathom.training.sft import SftTrainer
from fathom.training.sft_recipe import read_sft_recipe
from fathom.training.trainer import Trainer

Say = Callable[[str], None]
PRESETS = ("cpu",)
# English prose and talk: what a model this small can learn something from.
SOURCES = (
    *("encyclopedia", "recipes", "jargon", "moby-dick", "addresses"),
    *("computing-dictionary", "wordnet", "chats", "dictionary"),
)
MEGABYTES = 60.0
_SFT_SHARE = 0.15  # of the time for training
_REPORT_MINUTES = 1.5
# How a model this small is best asked; the engine reads it from the checkpoint.
_SAMPLING = {"temperature": 0.2, "top_p": 0.9, "repetition_penalty": 1.1}
_QUESTIONS = ("Hello!", "Who are you?", "What is Helsinki?", "How do I make pancakes?", "What does kind mean?")
_BEGINNINGS = ("The history of the city", "Mix the flour with")


@dataclass(frozen=True, slots=True)
class SpeedrunResult:
    """`model`: the folder of the chat model. `seconds`: of every stage of this call."""

    model: Path
    report: Path
    seconds: dict[str, float]
    tokens: int
    validation_loss: float | None
    second_token_acceptance: float | None


class Speedrun:
    """One run in one folder.

    Args:
        folder: for everything: corpus, shards, checkpoints, report.
        preset: "cpu".
        minutes: the whole may take; training gets what the other stages leave.
        tokens: of pre-training; None: as many as fit into the time.
        megabytes: of text.
        say: told what happens.
        on_step: told every step of pre-training.

    """

    def __init__(
        self,
        folder: Path,
        *,
        preset: str = "cpu",
        minutes: float = 45.0,
        tokens: int | None = None,
        megabytes: float = MEGABYTES,
        say: Say = print,
        on_step: Callable[[Trainer, StepMetrics], None] = lambda _trainer, _metrics: None,
    ) -> None:
        self.folder, self.minutes, self.tokens, self.megabytes = folder.absolute(), minutes, tokens, megabytes
        self.say, self._on_step = say, on_step
        self._recipe_file = recipe_path(f"speedrun-{preset}")
        self._sft_file = recipe_path(f"speedrun-{preset}-sft")
        self._corpus = self.folder / "corpus"
        self._begun = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def run(self) -> SpeedrunResult:
        """All stages; those that are done are skipped."""
        self._stage("text", self._corpus / "recipe.toml", self._text)
        self._stage("vocabulary", self._corpus / "tokenizer" / "tokenizer.json", self._vocabulary)
        self._stage("shards", self._corpus / "shards" / "index.json", self._shards)
        self._stage("conversations", self.folder / "conversations.jsonl", self._conversations)
        summary = self._stage("pre-training", self.folder / "pretrain.json", self._pretrain)
        self._stage("fine-tuning", self.folder / "sft.json", self._fine_tune)
        model = checkpoints(self.folder / "sft" / "checkpoints")[-1]
        report = self.folder / "report" / "index.html"
        self._stage("report", report, lambda: self._report(model))
        return SpeedrunResult(model, report, self.seconds, **summary)

    def _stage(self, name: str, result: Path, work: Callable[[], Any]) -> Any:
        """Do the work unless its result is there; returns the result's JSON, where it is JSON."""
        if result.exists():
            self.say(f"{name}: there already")
        else:
            start = time.perf_counter()
            self.say(f"{name} ...")
            work()
            self.seconds[name] = time.perf_counter() - start
            self.say(f"{name}: {self.seconds[name]:.0f} s")
        return json.loads(result.read_text(encoding="utf-8")) if result.suffix == ".json" else None

    def _text(self) -> None:
        packages = select(catalogue().packages, SOURCES)
        assemble(self._corpus, self.megabytes, report=self.say, packages=packages)

    def _vocabulary(self) -> None:
        recipe = read_data_recipe(self._corpus / "recipe.toml")
        size = self._pretrain_recipe(1).model.vocab_size
        texts = sample_recipe(recipe, self._corpus, 2e8)
        save_tokenizer(train_tokenizer(texts, size), self._corpus / "tokenizer")

    def _shards(self) -> None:
        prepare(read_data_recipe(self._corpus / "recipe.toml", ["fim.rate=0.0"]), self._corpus, progress=False)

    def _conversations(self) -> None:
        count = make_conversations(self._corpus / "text", self.folder / "conversations.jsonl")
        self.say(f"{count:,} conversations")

    def _pretrain_recipe(self, tokens: int) -> Recipe:
        paths = [f"output={self.folder / 'pretrain'}", f"data.shards={self._corpus / 'shards'}"]
        return read_recipe(self._recipe_file, [*paths, f"tokens={tokens}"])

    def _pretrain(self) -> None:
        trainer = Trainer(self._pretrain_recipe(self._chosen_tokens()), Path(), resume=True, say=self.say)
        for line in trainer.plan.lines():
            self.say(line)
        summary = trainer.run(lambda metrics: self._on_step(trainer, metrics))
        held_out = summary.evaluation
        result = {
            "tokens": summary.tokens,
            "validation_loss": held_out.loss if held_out else None,
            "second_token_acceptance": held_out.acceptance if held_out else None,
        }
        write_json(self.folder / "pretrain.json", result)

    def _chosen_tokens(self) -> int:
        """Tokens of pre-training, chosen once for a folder: the recipe of a run that goes on must not change."""
        file = self.folder / "tokens.json"
        if file.exists():
            return int(json.loads(file.read_text(encoding="utf-8"))["tokens"])
        tokens = self.tokens
        if tokens is None:
            speed = measure_training(self._pretrain_recipe(1), seconds=20.0, rate=1.0).tokens_per_second
            left = self.minutes * 60 - (time.perf_counter() - self._begun) - 60 * _REPORT_MINUTES
            tokens = max(100_000, int(speed * left * (1 - _SFT_SHARE) * 0.95))  # looks at held-out text take some
            self.say(f"{speed:,.0f} tokens/s, {left / 60:.0f} minutes left: {tokens:,} tokens")
        write_json(file, {"tokens": tokens})
        return tokens

    def _fine_tune(self) -> None:
        base = checkpoints(self.folder / "pretrain" / "checkpoints")[-1]
        spent = self.seconds.get("pre-training", 0.0)
        overrides = [
            f"model={base}",
            f"output={self.folder / 'sft'}",
            f"data.files=['{self.folder / 'conversations.jsonl'}']",
        ]
        recipe = read_sft_recipe(self._sft_file, overrides)
        trainer = SftTrainer(recipe, Path(), resume=True, say=self.say)
        if spent:  # as many passes as fit, the whole recipe at most
            start = time.perf_counter()
            trainer.take_step()
            share = spent * _SFT_SHARE / (1 - _SFT_SHARE) / (time.perf_counter() - start) * trainer.progress
            if share < 1:
                self.say(f"time for {share:.0%} of the conversations")
                recipe = replace(recipe, epochs=max(0.02, recipe.epochs * share))
            trainer = SftTrainer(recipe, Path(), resume=True, say=self.say)
        summary = trainer.run()
        write_json(summary.checkpoint / "generation_config.json", _SAMPLING)
        write_json(self.folder / "sft.json", {"steps": summary.steps, "held_out_loss": summary.held_out_loss})

    def _report(self, model: Path) -> None:
        card = json.loads((self._corpus / "shards" / "card.json").read_text(encoding="utf-8"))
        sft = json.loads((self.folder / "sft.json").read_text(encoding="utf-8"))
        base = checkpoints(self.folder / "pretrain" / "checkpoints")[-1]
        sections = [
            Section("Text", {name: f"{card['train'][name]:,} for training" for name in ("documents", "tokens")}),
            Section("Fine-tuning", sft),
            Section("Time", {name: f"{seconds:,.0f} s" for name, seconds in self.seconds.items()}),
        ]
        samples = [*continuations(base, _BEGINNINGS), *answers(model, _QUESTIONS)]
        title = "From raw text to a chat model"
        write_report(
            self.folder / "pretrain", title=title, sections=sections, samples=samples, folder=self.folder / "report"
        )


def answers(model: Path, questions: tuple[str, ...], *, max_tokens: int = 96) -> list[Sample]:
    """What a chat model answers, greedily."""
    from fathom.engine.loading import load
    from fathom.engine.sampling import SamplingParams
    from fathom.text import Message

    with load(str(model)) as engine:
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, repetition_penalty=1.1)
        return [
            Sample(question, engine.generate(messages=[Message("user", question)], params=params).content)
            for question in questions
        ]


def continuations(model: Path, beginnings: tuple[str, ...], *, max_tokens: int = 64) -> list[Sample]:
    """How a model goes on from a text, at temperature 0.7."""
    from fathom.engine.loading import load
    from fathom.engine.sampling import SamplingParams

    with load(str(model)) as engine:
        params = SamplingParams(temperature=0.7, max_tokens=max_tokens, seed=0, repetition_penalty=1.1)
        return [Sample(text + " ...", engine.generate(prompt=text, params=params).content) for text in beginnings]
