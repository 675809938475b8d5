"""All that changes while a run goes on, and how it is written to a checkpoint and read back, bit for bit.

After the initial weights nothing draws random numbers: the order of the data follows from seed and row number, so the
loader's state stands for it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.checkpoints import load_model, open_checkpoint
from fathom.data.loader import Loader
from fathom.models.transformer import Transformer
from fathom.training.anomalies import Watch
from fathom.training.checkpoint import read_state, write_checkpoint
from fathom.training.errors import ResumeError
from fathom.training.optimizer import DTYPES, AdamW, MasterWeights
from fathom.training.parallel import Layout, share_experts
from fathom.training.recipe import Recipe

# Keys that may differ between the sessions of one run: they change nothing that is computed.
_FREE_KEYS = ("output", "machine", "checkpoints", "evaluation", "anomalies", "recompute", "tensorboard", "parallel")


class RunState:
    """Model, optimiser, average, loader and counters of one run."""

    def __init__(self, recipe: Recipe, shards: Path, begin: Path | None = None, layout: Layout | None = None) -> None:
        """Make the state of step 0: weights drawn from the recipe's seed, or those of the checkpoint `begin`.

        Raises:
            ResumeError: the checkpoint's tensors are not those of the recipe's model.

        """
        self.recipe, self.layout = recipe, layout or Layout()
        self.model = Transformer(recipe.model)
        if begin is None:
            self.model.initialise(torch.Generator().manual_seed(recipe.seed))
        else:
            self._begin(begin)
        share_experts(self.model, self.layout)
        self.masters = MasterWeights(self.model, recipe.precision)
        self.optimizer = AdamW(self.masters.weights, recipe.optimizer)
        self.average = (
            {name: weight.clone() for name, weight in self.masters.weights.items()} if recipe.ema_decay else {}
        )
        data = recipe.data
        self.loader = Loader(
            shards,
            data.sequence_length,
            seed=recipe.seed,
            rank=self.layout.rank,
            ranks=self.layout.ranks,
            lookahead=1 + recipe.model.num_nextn_predict_layers,
            shuffle=data.shuffle,
            document_ids=data.mask_documents,
        )
        self.watch = Watch(recipe.anomalies)
        self.step = 0
        self.seconds = 0.0

    @property
    def progress(self) -> float:
        """Share of the run's tokens seen."""
        return self.loader.tokens_seen / self.recipe.tokens

    def _begin(self, checkpoint: Path) -> None:
        weights = load_model(open_checkpoint(checkpoint), dtype=torch.float32).state_dict()
        try:
            self.model.load_state_dict(weights)
        except RuntimeError as error:
            raise ResumeError(f"{checkpoint} cannot begin this run, its model is another: {error}") from error

    def save(self, folder: Path, tokenizer: Path) -> Path:
        """Write a checkpoint; raises DiskFullError."""
        return self.snapshot(folder, tokenizer)()

    def snapshot(self, folder: Path, tokenizer: Path) -> Callable[[], Path]:
        """Copy all that a checkpoint of this step holds and return what writes it, from any thread, at any time."""
        state = {
            "recipe": self.recipe.to_json(),
            "updates": self.optimizer.updates,
            "loader": self.loader.state(),
            "recent_losses": list(self.watch.recent),
            "skipped": self.watch.skipped,
            "seconds": self.seconds,
            "threads": torch.get_num_threads(),
        }
        with torch.device("meta"):
            model = Transformer(self.recipe.model)
        full = self.layout.full
        model.load_state_dict({name: full(name, one) for name, one in self.model.state_dict().items()}, assign=True)
        tensors = {name: full(name, tensor) for name, tensor in self._tensors().items()}
        step = self.step
        return lambda: write_checkpoint(folder, step, model, tokenizer, state, tensors)

    def load(self, checkpoint: Path) -> list[str]:
        """Go on from a checkpoint; returns what the person should know. Raises ResumeError for another recipe."""
        state, tensors = read_state(checkpoint)
        _check_recipe(self.recipe, state["recipe"], checkpoint)
        model = load_model(open_checkpoint(checkpoint), dtype=DTYPES[self.recipe.precision])
        part = self.layout.part
        self.model.load_state_dict({name: part(name, tensor) for name, tensor in model.state_dict().items()})
        for name, tensor in self._tensors().items():
            tensor.copy_(part(name, tensors.tensor(name)))
        self.masters.publish()
        self.optimizer.updates = state["updates"]
        self.loader.load_state(state["loader"])
        self.watch = Watch(self.recipe.anomalies, state["recent_losses"], state["skipped"])
        self.step, self.seconds = state["step"], state["seconds"]
        if state["threads"] == torch.get_num_threads():
            return []
        return [
            f"the run was on {state['threads']} threads and goes on with {torch.get_num_threads()}: "
            "sums may round differently from here on (set OMP_NUM_THREADS for the same bits)"
        ]

    def average_model(self) -> Transformer:
        """A copy of the model with the averaged weights."""
        model = Transformer(self.recipe.model)
        state = {**self.model.state_dict(), **self.average}
        model.load_state_dict({name: self.layout.full(name, tensor) for name, tensor in state.items()})
        return model.to(DTYPES[self.recipe.precision])

    def _tensors(self) -> dict[str, Tensor]:
        """What the model's own files do not hold exactly; in float32 they do hold the master weights."""
        tensors = self.optimizer.moments
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        if self.recipe.precision != "float32":
            tensors |= {f"master.{name}": tensor for name, tensor in self.masters.weights.items()}
        return dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))


def _check_recipe(recipe: Recipe, saved: dict[str, Any], checkpoint: Path) -> None:
    current = json.loads(json.dumps(recipe.to_json()))
    for table in (current, saved):
        for key in _FREE_KEYS:
            table.pop(key, None)
        table["data"].pop("shards")  # may have moved: the loader's state knows the shards by their content
    differing = sorted(key for key in current.keys() | saved.keys() if current.get(key) != saved.get(key))
    if differing:
        raise ResumeError(
            f"{checkpoint} was made with other settings of {', '.join(differing)}: resume with that recipe, "
            "or choose another output"
        )
