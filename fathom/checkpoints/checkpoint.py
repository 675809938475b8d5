"""The one face of a checkpoint, whatever its format: names, shapes, numbers, and bytes as they are stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fathom.checkpoints.errors import NonFiniteError
from fathom.checkpoints.mapping import Bytes
from fathom.models.config import ModelConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# What may lie beside the weights and belongs to the model: copied by export, fetched by pull.
SIDE_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE-MODEL",
    "README.md",
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What is known of a tensor without reading it: logical shape, stored type ("BF16", "F8_E4M3", "Q4_K"), bytes."""

    shape: tuple[int, ...]
    type: str
    bytes: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as stored: uint8 bytes in row order, [rows, bytes of a row] (1-D tensors: one row).

    `scales` holds the block scales of an FP8 weight, float32 [ceil(out/128), ceil(in/128)], else None.
    """

    type: str
    shape: tuple[int, ...]
    data: Bytes
    scales: "Tensor | None" = None


class Checkpoint(Protocol):
    """An opened checkpoint. Names are always Hugging Face's, one tensor per expert."""

    @property
    def path(self) -> Path:
        """The folder or file it was opened from."""

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""

    @property
    def metadata(self) -> Mapping[str, object]:
        """GGUF metadata (numbers, strings, lists); empty for safetensors."""

    @property
    def name(self) -> str:
        """The model's own name where the file gives one, else the file's or folder's."""

    @property
    def licence(self) -> str | None:
        """The licence's identifier as the checkpoint states it."""

    @property
    def files(self) -> Mapping[str, Path]:
        """Tokenizer, template and licence files beside the weights that exist, by file name."""

    def names(self) -> list[str]:
        """Every tensor's name."""

    def info(self, name: str) -> TensorInfo:
        """Shape, type and bytes of one tensor; KeyError where there is none."""

    def tensor(self, name: str, dtype: "torch.dtype | None" = None) -> "Tensor":
        """The numbers: a view of the mapped file where stored plainly, else dequantised (float32 unless told)."""

    def stored(self, name: str) -> StoredTensor:
        """The bytes as stored, a view of the map wherever rows need not be put into Hugging Face's order."""

    def release(self) -> None:
        """Give the pages read so far back to the system; they are read again when needed. Only for a checkpoint
        none of whose views has been written to: private changes are lost.
        """


def check_finite(checkpoint: Checkpoint) -> None:
    """Read every tensor once and refuse NaN and infinity.

    Raises:
        NonFiniteError: naming the first tensors that have one.

    """
    import torch

    broken = []
    for name in checkpoint.names():
        # The sum of finite float32 numbers may overflow; of the largest magnitude nothing can.
        tensor = checkpoint.tensor(name)
        if tensor.is_floating_point() and tensor.numel() and not torch.isfinite(tensor.float().abs().amax()):
            broken.append(name)
    if broken:
        raise NonFiniteError(
            f"{checkpoint.path}: {len(broken)} tensors hold NaN or infinity: {listed(broken)}; "
            "the file is damaged or was exported from a broken training run"
        )


def listed(names: list[str], most: int = 8) -> str:
    """The first names of a list for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
