"""Adapters on disk, in the layout of Hugging Face's PEFT: adapter_config.json and adapter_model.safetensors.

What the reader does not compute (DoRA, trained biases, saved modules, adapted embeddings) is refused by name.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fathom.checkpoints.errors import CheckpointError, MalformedFileError, SourceError, UnsupportedTypeError
from fathom.checkpoints.safetensors_format import SafetensorsFile, write_safetensors
from fathom.checkpoints.writing import write_json
from fathom.models.adapter import Adapter

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NAME = re.compile(rf"{re.escape(_PREFIX)}(?P<layer>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
# Keys that would change the computation: the values under which they do not.
_PLAIN: Mapping[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "lora_bias": (False, None),
    "trainable_token_indices": (None, []),
    "use_qalora": (False, None),
}


class StoredAdapter:
    """An adapter with what its folder says: `base` is the model it was trained on. Checked when opened; its tensors,
    views of the mapped file, are made when they are first asked for.
    """

    def __init__(self, file: SafetensorsFile, pairs: Mapping[str, tuple[str, str]], config: Mapping[str, Any]) -> None:
        self.config = config
        self.base = str(config.get("base_model_name_or_path") or "")
        self._file, self._pairs = file, pairs  # the names of both matrices, by layer
        self._alpha, self._rank = float(config["lora_alpha"]), int(config["r"])

    @cached_property
    def adapter(self) -> Adapter:
        """The pairs of matrices."""
        return self._read(self._file.tensor)

    def on_host(self) -> Adapter:
        """The same with numpy arrays, float32, for runners that do without PyTorch."""
        return self._read(self._file.array)

    def _read(self, matrix: Callable[[str], Any]) -> Adapter:
        scale = _scale(self.config, self._alpha, self._rank)
        pairs = {}
        for layer, (a_name, b_name) in self._pairs.items():
            a_RI, b_OR = matrix(a_name), matrix(b_name)
            alpha = float(_pattern(self.config, "alpha_pattern", layer, self._alpha))
            own = _scale(self.config, alpha, a_RI.shape[0])
            pairs[layer] = (a_RI, b_OR if own == scale else b_OR * (own / scale))
        return Adapter(scale, pairs)


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def read_adapter(folder: Path | str) -> StoredAdapter:
    """Open an adapter.

    Raises:
        SourceError: there is none. MalformedFileError: a half pair, or sizes that contradict each other.
        UnsupportedTypeError: it asks for more than low-rank pairs.

    """
    folder = Path(folder)
    if not is_adapter(folder):
        raise SourceError(f"{folder} holds no adapter ({CONFIG} and {WEIGHTS})")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        int(config["r"]), float(config["lora_alpha"])
    except (ValueError, TypeError, KeyError) as error:
        raise MalformedFileError(f"{folder / CONFIG} is not the config of a LoRA adapter: {error!r}") from error
    for key, accepted in _PLAIN.items():
        if key in config and config[key] not in accepted:
            raise UnsupportedTypeError(f"{folder}: {key} is {config[key]!r}; Fathom computes plain low-rank pairs")
    file = SafetensorsFile(folder / WEIGHTS)
    sides: dict[str, dict[str, str]] = {}
    for name in file.entries:
        match = _NAME.fullmatch(name)
        if match is None:
            raise UnsupportedTypeError(f"{folder / WEIGHTS} holds {name}, which is no side of a low-rank pair")
        sides.setdefault(match["layer"], {})[match["side"]] = name
    pairs = {}
    for layer, pair in sides.items():
        shapes = {side: file.entries[name].shape for side, name in pair.items()}
        if set(pair) != {"A", "B"} or any(len(shape) != 2 for shape in shapes.values()):
            raise MalformedFileError(f"{folder / WEIGHTS}: {layer} lacks one of its two matrices")
        if shapes["A"][0] != shapes["B"][1]:
            raise MalformedFileError(f"{folder / WEIGHTS}: the two matrices of {layer} have different ranks")
        pairs[layer] = (pair["A"], pair["B"])
    if not pairs:
        raise MalformedFileError(f"{folder / WEIGHTS} holds no pair")
    return StoredAdapter(file, pairs, config)


def write_adapter(folder: Path | str, adapter: Adapter, *, base: str, dtype: "torch.dtype | None" = None) -> None:
    """Write an adapter for PEFT, vLLM, SGLang and ourselves; `base` is the reference of its model.

    Args:
        folder: where to; the config is written last, so a folder that has one is complete.
        adapter: the pairs.
        base: stands in the config as `base_model_name_or_path`.
        dtype: what the numbers are rounded to; None: as they are.

    """
    from fathom.checkpoints.dtypes import TYPE_NAMES

    folder = Path(folder)
    if not adapter.pairs:
        raise CheckpointError("an adapter without pairs changes nothing; there is nothing to write")
    tensors = {
        f"{_PREFIX}{layer}.lora_{side}.weight": tensor if dtype is None else tensor.to(dtype)
        for layer, pair in adapter.pairs.items()
        for side, tensor in zip("AB", pair, strict=True)
    }
    layout = {name: (TYPE_NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_safetensors(folder / WEIGHTS, layout, iter(tensors.values()))
    write_json(folder / CONFIG, _config(adapter, base))


def _config(adapter: Adapter, base: str) -> dict[str, Any]:
    rank = adapter.rank
    ranks = {layer: a_RI.shape[0] for layer, (a_RI, _) in adapter.pairs.items()}
    others = {layer: own for layer, own in ranks.items() if own != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": _whole(adapter.scale * rank),
        "rank_pattern": others,
        "alpha_pattern": {layer: _whole(adapter.scale * own) for layer, own in others.items()},
        "target_modules": sorted(adapter.pairs),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _whole(number: float) -> float | int:
    return int(number) if number == int(number) else number


def _scale(config: Mapping[str, Any], alpha: float, rank: int) -> float:
    """Alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (arXiv 2312.03732)."""
    return float(alpha / rank**0.5) if config.get("use_rslora") else alpha / rank


def _pattern(config: Mapping[str, Any], key: str, layer: str, default: float) -> float:
    """PEFT's patterns: the first key that is the layer's name or, as a regular expression, the end of it."""
    for pattern, value in (config.get(key) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return float(value)
    return default
