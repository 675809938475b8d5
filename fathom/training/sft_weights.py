"""What a fine-tuning run learns: all weights, or a low-rank adapter beside frozen ones; and their checkpoints.

checkpoints/step-00000050/                 appears by one rename, when everything in it is on the disk
    adapter_config.json, adapter_model.safetensors    (or config.json, model*.safetensors, tokenizer files)
    training/state.json, training/state.safetensors
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fathom.checkpoints import load_model, open_checkpoint
from fathom.checkpoints.adapters import read_adapter, write_adapter
from fathom.models.lora import LowRankTraining, fresh
from fathom.models.transformer import Transformer
from fathom.training.checkpoint import write_checkpoint, write_step
from fathom.training.optimizer import MasterWeights
from fathom.training.sft_recipe import LoraSettings

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


class Learned(Protocol):
    """What the optimiser moves: float32 `weights` and their summed `gradients`, by name."""

    weights: dict[str, Tensor]
    gradients: dict[str, Tensor]

    def collect(self) -> None:
        """Add the gradients of one micro-batch and clear them."""

    def publish(self) -> None:
        """Let the model compute with the weights as they are now, and clear the gradients."""

    def discard(self) -> None:
        """Clear the gradients of a step that is not taken."""

    def gradient_norm(self) -> Tensor:
        """The norm of the whole gradient."""


class AdapterWeights:
    """The pairs of an adapter; the parameters themselves are the float32 weights."""

    def __init__(self, training: LowRankTraining) -> None:
        self.training = training
        self.weights = {name: parameter.detach() for name, parameter in training.parameters.items()}
        self.gradients = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}

    @torch.no_grad()
    def collect(self) -> None:
        """Add the gradients of one micro-batch and clear them."""
        for name, parameter in self.training.parameters.items():
            if parameter.grad is not None:
                self.gradients[name] += parameter.grad
                parameter.grad = None

    def publish(self) -> None:
        """Clear the gradients: the model computes with the weights already."""
        self.discard()

    def discard(self) -> None:
        """Clear the gradients."""
        for gradient in self.gradients.values():
            gradient.zero_()

    def gradient_norm(self) -> Tensor:
        """The norm of the whole gradient."""
        norms = [torch.linalg.vector_norm(gradient) for gradient in self.gradients.values()]
        total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return total


def attach_adapter(model: Transformer, settings: LoraSettings, base: Path, seed: int) -> AdapterWeights:
    """Put a new adapter, or the one to go on from, on the model."""
    if settings.start is not None:
        return AdapterWeights(LowRankTraining(model, read_adapter(base / settings.start).adapter))
    generator = torch.Generator().manual_seed(seed)
    wanted = {"targets": settings.targets, "first_layer": settings.first_layer}
    adapter = fresh(model, settings.rank, settings.alpha, generator=generator, **wanted)  # type: ignore[arg-type]
    return AdapterWeights(LowRankTraining(model, adapter))


def save_learned(
    folder: Path,
    step: int,
    model: Transformer,
    learned: Learned,
    base: str,
    tokenizer: Path,
    state: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> Path:
    """Write a checkpoint of `step` and return it; see `write_checkpoint` for what is raised.

    Args:
        folder: the folder of checkpoints.
        step: how many steps are done.
        model: the model as it computes (full weights are written from it).
        learned: what learns; of an adapter only the adapter is written.
        base: the reference of the adapter's model.
        tokenizer: a folder whose files go with full weights.
        state: JSON values.
        tensors: what is to be kept exactly besides.

    """
    exact = {**tensors, **{f"weight.{name}": tensor for name, tensor in learned.weights.items()}}
    if not isinstance(learned, AdapterWeights):
        with tempfile.TemporaryDirectory() as files:
            for name in TOKENIZER_FILES:
                if (tokenizer / name).is_file():
                    shutil.copyfile(tokenizer / name, Path(files) / name)
            return write_checkpoint(folder, step, model, Path(files), state, exact)
    adapter = learned.training.adapter()
    return write_step(
        folder, step, state, exact, lambda into: write_adapter(into, adapter, base=base, dtype=torch.bfloat16)
    )


def trainable_model(path: Path, precision: str, *, full: bool) -> tuple[Transformer, MasterWeights | None]:
    """The model in its precision, and float32 masters where all weights learn."""
    if not full:
        return load_model(open_checkpoint(path), dtype=getattr(torch, precision)), None
    model = load_model(open_checkpoint(path), dtype=torch.float32)
    copies = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}  # not views of the file
    model.load_state_dict(copies, strict=False, assign=True)
    model.requires_grad_(True)
    return model, MasterWeights(model, precision)
