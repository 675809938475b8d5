"""Writing models in Hugging Face layout: shards of bounded size, an index, and config.json as the last word."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fathom.checkpoints.dtypes import DTYPES, TYPE_NAMES
from fathom.checkpoints.errors import CheckpointError
from fathom.checkpoints.safetensors_checkpoint import INDEX, SINGLE
from fathom.checkpoints.safetensors_format import nbytes, write_safetensors
from fathom.checkpoints.tensor_names import parts_of
from fathom.checkpoints.writing import write_json
from fathom.models.config import ModelConfig
from fathom.models.transformer import Transformer

Layout = dict[str, tuple[str, tuple[int, ...]]]
DTYPE_NAMES = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32"}


def save_model(model: Transformer, folder: Path | str, *, max_shard_bytes: int = 5_000_000_000) -> None:
    """Write the model as a Hugging Face folder: what `open_checkpoint`, transformers and vLLM load.

    Every file is written under another name and renamed when it is on the disk; config.json comes last, so a folder
    with a config.json is a complete checkpoint.

    Raises:
        CheckpointError: the folder already holds a model.
        DiskFullError: no room.

    """
    folder = Path(folder)
    if (folder / "config.json").exists():
        raise CheckpointError(f"{folder} already holds a model; choose another folder or remove that one first")
    tensors = published_tensors(model)
    layout: Layout = {name: (TYPE_NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
    shards = plan_shards(layout, max_shard_bytes)
    for file, part in shards.items():
        write_safetensors(folder / file, part, (tensors[name] for name in part))
    write_index(folder, shards)
    write_json(folder / "config.json", plain_config(model.config, model.model.embed_tokens.weight.dtype).to_hf())


def published_tensors(model: Transformer) -> dict[str, Tensor]:
    """The model's state under the published names: experts apart, prediction modules with their copies of the
    embedding and the head, as DeepSeek publishes them and other engines expect.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        parts = parts_of(name, tuple(tensor.shape))
        tensors |= {name: tensor} if parts == [name] else dict(zip(parts, tensor.unbind(), strict=True))
    embedding = tensors["model.embed_tokens.weight"]
    for layer in range(model.config.num_hidden_layers, model.config.num_cache_layers):
        tensors[f"model.layers.{layer}.embed_tokens.weight"] = embedding
        tensors[f"model.layers.{layer}.shared_head.head.weight"] = tensors.get("lm_head.weight", embedding)
    return tensors


def plan_shards(layout: Mapping[str, tuple[str, tuple[int, ...]]], max_shard_bytes: int) -> dict[str, Layout]:
    """Cut a layout into files of at most `max_shard_bytes` (or one tensor, if that is larger), by file name.

    Within a file the widest dtypes come first, so that every tensor is aligned.
    """
    if max_shard_bytes < 1:
        raise ValueError("max_shard_bytes must be positive")
    groups: list[Layout] = [{}]
    filled = 0
    for name, (type_name, shape) in layout.items():
        size = nbytes(type_name, shape)
        if groups[-1] and filled + size > max_shard_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = (type_name, shape)
        filled += size
    groups = [dict(sorted(group.items(), key=lambda item: -DTYPES[item[1][0]].itemsize)) for group in groups]
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {f"model-{n:05d}-of-{len(groups):05d}.safetensors": group for n, group in enumerate(groups, start=1)}


def write_index(folder: Path, shards: Mapping[str, Layout]) -> None:
    """Write the index of a sharded checkpoint; one file needs none."""
    if list(shards) == [SINGLE]:
        return
    total = sum(nbytes(type_name, shape) for part in shards.values() for type_name, shape in part.values())
    weight_map = {name: file for file, part in shards.items() for name in part}
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def plain_config(config: ModelConfig, dtype: torch.dtype) -> ModelConfig:
    """The config that describes plain weights of this dtype."""
    return replace(config, torch_dtype=DTYPE_NAMES[dtype], quantization_config=None)
