"""Any checkpoint as one .gguf file that llama.cpp and Fathom load: weights, shape, tokenizer and chat template.

Names, keys and shapes are those of llama.cpp's converter (gguf-py/gguf/constants.py, convert_hf_to_gguf.py), which
expects latent attention's kv_b split into a transposed key half and a value half, experts stacked, and llama's rotary
halves interleaved.
"""

import json
import logging
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fathom.checkpoints.checkpoint import Checkpoint
from fathom.checkpoints.errors import CheckpointError, NonFiniteError, UnsupportedTypeError
from fathom.checkpoints.gguf_config import llama3_table
from fathom.checkpoints.gguf_names import BLOCK_NAMES, EXPERT_NAMES, GLOBAL_NAMES
from fathom.checkpoints.gguf_quantise import encode
from fathom.checkpoints.gguf_types import BLOCK_TYPES, BY_NAME
from fathom.checkpoints.opening import open_checkpoint
from fathom.checkpoints.sources import resolve
from fathom.checkpoints.tensor_names import ROUTER_BIAS
from fathom.checkpoints.writing import write_atomically
from fathom.models.config import ModelConfig

log = logging.getLogger(__name__)

GGUFType = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]
_FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}  # general.file_type: llama_ftype of llama.h
_ALIGNMENT = 32
_ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2"}
_SOFTMAX, _SIGMOID = 1, 2
# Token types of llama.cpp (llama_token_type).
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


@dataclass(frozen=True, slots=True)
class Planned:
    """One tensor to write: its type and shape, and what gives its values in float32."""

    type: str
    shape: tuple[int, ...]
    values: Callable[[], Tensor]

    @property
    def size(self) -> int:
        """Bytes in the file."""
        block = BY_NAME[self.type]
        return int(np.prod(self.shape)) // block.weights * block.bytes


def export_gguf(
    ref: str | Path,
    file: str | Path,
    *,
    dtype: GGUFType = "bf16",
    name: str | None = None,
    licence: str | None = None,
    report: Callable[[str], None] = log.warning,
) -> Path:
    """Write a model as a .gguf file and return its path; one tensor is in memory at a time.

    Args:
        ref: a model reference, see `resolve`.
        file: the file to write, or a folder for a file named after the model.
        dtype: of the matrices. Norms, gates and gate biases stay float32, as llama.cpp keeps them; matrices whose rows
            are not made of whole blocks of 32 become F16 under the quantised types.
        name: `general.name` and `general.license`; default: what the checkpoint says.
        licence: see `name`.
        report: told what is left out (prediction modules: llama.cpp's deepseek2 has no place for them).

    Raises:
        CheckpointError: the file exists.
        UnsupportedTypeError: the tokenizer's rules or the rope scaling have no name in GGUF.
        NonFiniteError: a value is too large for float16.
        DiskFullError: no room.

    """
    checkpoint, file = open_checkpoint(resolve(str(ref))), Path(file)
    if dtype not in _FILE_TYPES:
        raise ValueError(f"dtype must be one of {', '.join(_FILE_TYPES)}, not {dtype!r}")
    title = name or checkpoint.name
    if file.suffix != ".gguf":
        file = file / f"{title.replace('/', '-')}-{dtype.upper()}.gguf"
    if file.exists():
        raise CheckpointError(f"{file} exists already; choose another name or remove it first")
    if checkpoint.config.num_nextn_predict_layers:
        report("the prediction modules are left out: llama.cpp's deepseek2 does not read them")
    metadata = {"general.name": title, "general.file_type": _FILE_TYPES[dtype], "general.quantization_version": 2}
    if licence or checkpoint.licence:
        metadata["general.license"] = licence or checkpoint.licence or ""
    metadata |= model_metadata(checkpoint.config) | tokenizer_metadata(checkpoint)
    write_gguf(file, metadata, planned_tensors(checkpoint, dtype))
    return file


def model_metadata(config: ModelConfig) -> dict[str, Any]:
    """The keys that describe the model's shape."""
    architecture = _ARCHITECTURES[config.architecture]
    keys: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "attention.head_count": config.num_attention_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(config.rope_theta),
    }
    keys |= _latent_keys(config) if config.is_latent else _grouped_keys(config)
    keys |= _rope_keys(config)
    return {"general.architecture": architecture, **{f"{architecture}.{key}": value for key, value in keys.items()}}


def _grouped_keys(config: ModelConfig) -> dict[str, Any]:
    return {
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "rope.dimension_count": config.head_dim,
    }


def _latent_keys(config: ModelConfig) -> dict[str, Any]:
    """Latent attention looks to llama.cpp like attention with one shared key of R + P."""
    keys: dict[str, Any] = {
        "leading_dense_block_count": config.first_k_dense_replace,
        "attention.kv_lora_rank": config.kv_lora_rank,
        "attention.head_count_kv": 1,
        "attention.key_length": config.kv_lora_rank + config.qk_rope_head_dim,
        "attention.value_length": config.kv_lora_rank,
        "attention.key_length_mla": config.qk_head_dim,
        "attention.value_length_mla": config.v_head_dim,
        "rope.dimension_count": config.qk_rope_head_dim,
        "expert_feed_forward_length": config.moe_intermediate_size,
        "expert_count": config.n_routed_experts,
        "expert_used_count": config.num_experts_per_tok,
        "expert_shared_count": config.n_shared_experts,
        "expert_group_count": config.n_group,
        "expert_group_used_count": config.topk_group,
        "expert_weights_scale": float(config.routed_scaling_factor),
        "expert_weights_norm": config.norm_topk_prob,
        "expert_gating_func": _SIGMOID if config.scoring_func == "sigmoid" else _SOFTMAX,
    }
    return keys if config.q_lora_rank is None else keys | {"attention.q_lora_rank": config.q_lora_rank}


def _rope_keys(config: ModelConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    if scaling is None or scaling.type == "llama3":  # Llama 3.1's is a tensor of divisors
        return {}
    if scaling.type == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling.factor)}
    keys: dict[str, Any] = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": float(scaling.factor),
        "rope.scaling.original_context_length": scaling.original_max_position_embeddings,
        "rope.scaling.yarn_beta_fast": float(scaling.beta_fast),
        "rope.scaling.yarn_beta_slow": float(scaling.beta_slow),
    }
    if config.is_latent:
        if scaling.mscale != scaling.mscale_all_dim:
            raise UnsupportedTypeError("GGUF has one number for mscale and mscale_all_dim, and here they differ")
        keys["rope.scaling.yarn_log_multiplier"] = 0.1 * (scaling.mscale_all_dim or 0.0)
    return keys


def tokenizer_metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """The keys `tokenizer.*`: copied from a .gguf file, or made from tokenizer.json and its neighbours."""
    copied = {key: value for key, value in checkpoint.metadata.items() if key.startswith("tokenizer.")}
    if copied:
        return copied
    if "tokenizer.json" not in checkpoint.files:
        raise CheckpointError(f"{checkpoint.path} has no tokenizer.json, and a GGUF file needs a tokenizer")
    table = json.loads(checkpoint.files["tokenizer.json"].read_text(encoding="utf-8"))
    names, types = _tokens(table, checkpoint.config.vocab_size)
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _rules_name(checkpoint.files["tokenizer.json"]),
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [
            merge if isinstance(merge, str) else " ".join(merge) for merge in table["model"]["merges"]
        ],
    }
    settings: dict[str, Any] = {}
    if "tokenizer_config.json" in checkpoint.files:
        settings = json.loads(checkpoint.files["tokenizer_config.json"].read_text(encoding="utf-8"))
    for key, name in (("bos", "bos_token"), ("eos", "eos_token"), ("padding", "pad_token")):
        token = settings.get(name)
        token = token["content"] if isinstance(token, dict) else token
        if token in names:
            metadata[f"tokenizer.ggml.{key}_token_id"] = names.index(token)
    metadata["tokenizer.ggml.add_bos_token"] = bool(settings.get("add_bos_token", False))
    template = settings.get("chat_template")
    if "chat_template.jinja" in checkpoint.files:
        template = checkpoint.files["chat_template.jinja"].read_text(encoding="utf-8")
    if isinstance(template, str):
        metadata["tokenizer.chat_template"] = template
    return metadata


def _tokens(table: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    """The spelling and type of every id; ids that the vocabulary does not use are named so."""
    names, types = [f"[PAD{index}]" for index in range(size)], [_UNUSED] * size
    for token, index in table["model"]["vocab"].items():
        names[index], types[index] = token, _NORMAL
    for added in table.get("added_tokens", ()):
        names[added["id"]], types[added["id"]] = added["content"], _CONTROL if added["special"] else _USER_DEFINED
    return names, types


def _rules_name(file: Path) -> str:
    """The name that llama.cpp has for this file's rules of cutting words."""
    import tokenizers

    from fathom.text.pretokenizers import BY_GGUF_NAME, pre_tokenizer

    def state(one: Any) -> Any:
        return json.loads(one.__getstate__())

    ours = state(tokenizers.Tokenizer.from_file(str(file)).pre_tokenizer)
    for name, rules in BY_GGUF_NAME.items():
        if state(pre_tokenizer(rules)) == ours:
            return name
    raise UnsupportedTypeError(
        f"{file} cuts words by rules that have no name in GGUF that Fathom knows ({', '.join(BY_GGUF_NAME)}); "
        "with other rules the ids would be wrong, so it stops here"
    )


def planned_tensors(checkpoint: Checkpoint, dtype: GGUFType) -> dict[str, Planned]:
    """Every tensor of the file, in order."""
    config, plan = checkpoint.config, {}
    for name in checkpoint.names():
        if ".rotary_emb." in name or _beyond(name, config.num_hidden_layers):
            continue
        for written, shape, values in _placed(checkpoint, name):
            plan[written] = Planned(_type_of(written, shape, dtype), shape, values)
    scaling = config.rope_scaling
    if scaling is not None and scaling.type == "llama3":
        factors = llama3_table(config.head_dim, config.rope_theta, scaling.factor)
        plan["rope_freqs.weight"] = Planned("F32", factors.shape, lambda: torch.from_numpy(factors).float())
    return plan


def _type_of(name: str, shape: tuple[int, ...], dtype: GGUFType) -> str:
    if len(shape) == 1 or ".ffn_gate_inp." in name or ".exp_probs_b." in name:
        return "F32"
    wanted = dtype.upper()
    return wanted if shape[-1] % BY_NAME[wanted].weights == 0 else "F16"


def _beyond(name: str, layers: int) -> bool:
    """Whether a tensor belongs to a prediction module."""
    return name.startswith("model.layers.") and int(name.split(".")[2]) >= layers


def _placed(checkpoint: Checkpoint, name: str) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
    """Where a Hugging Face tensor goes: its GGUF name, shape and values; nothing for experts but the first."""
    config, shape = checkpoint.config, checkpoint.info(name).shape

    def values(name: str = name) -> Tensor:
        return checkpoint.tensor(name, torch.float32)

    if name.endswith(ROUTER_BIAS):
        yield f"blk.{name.split('.')[2]}.exp_probs_b.bias", shape, values
        return
    stem, _, kind = name.rpartition(".")
    if stem in GLOBAL_NAMES:
        yield f"{GLOBAL_NAMES[stem]}.{kind}", shape, values
        return
    layer, inner = stem.removeprefix("model.layers.").split(".", 1)
    block = f"blk.{layer}"
    if inner.startswith("mlp.experts."):
        _, _, expert, projection = inner.split(".")
        if expert == "0":
            count, prefix = config.n_routed_experts, f"model.layers.{layer}.mlp.experts"
            names = [f"{prefix}.{index}.{projection}.{kind}" for index in range(count)]
            stacked = (count, *shape)
            yield f"{block}.{EXPERT_NAMES[projection]}.{kind}", stacked, lambda: torch.stack([*map(values, names)])
    elif inner == "self_attn.kv_b_proj":
        heads, nope, width, rank = config.num_attention_heads, config.qk_nope_head_dim, config.v_head_dim, shape[1]
        key = lambda: values().view(heads, -1, rank)[:, :nope].transpose(1, 2)
        value = lambda: values().view(heads, -1, rank)[:, nope:]
        yield f"{block}.attn_k_b.{kind}", (heads, rank, nope), key
        yield f"{block}.attn_v_b.{kind}", (heads, width, rank), value
    elif config.architecture == "llama" and inner in ("self_attn.q_proj", "self_attn.k_proj"):
        heads = config.num_attention_heads if inner.endswith("q_proj") else config.num_key_value_heads
        yield f"{block}.{BLOCK_NAMES[inner]}.{kind}", shape, lambda: _interleaved(values(), heads)
    else:
        yield f"{block}.{BLOCK_NAMES[inner]}.{kind}", shape, values


def _interleaved(tensor: Tensor, heads: int) -> Tensor:
    """The rows of every head from halves to pairs (LlamaModel.permute of llama.cpp's converter)."""
    return tensor.view(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def write_gguf(file: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Planned]) -> None:
    """Write the container (llama.cpp, docs/gguf.md), version 3; raises DiskFullError."""
    write_atomically(file, _parts(metadata, tensors))


def _parts(metadata: Mapping[str, Any], tensors: Mapping[str, Planned]) -> Iterator[bytes]:
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    head += [_string(key) + _typed(key, value) for key, value in metadata.items()]
    numbers = {block.name: number for number, block in BLOCK_TYPES.items()}
    offset = 0
    for name, tensor in tensors.items():
        sizes = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
        head.append(_string(name) + sizes + struct.pack("<IQ", numbers[tensor.type], offset))
        offset += -(-tensor.size // _ALIGNMENT) * _ALIGNMENT
    header = b"".join(head)
    yield header + bytes(-len(header) % _ALIGNMENT)
    for name, tensor in tensors.items():
        data = encode(tensor.type, tensor.values())
        if tensor.type == "F16" and not np.isfinite(data.view(np.float16)).all():
            raise NonFiniteError(f"{name} holds values beyond float16's range (or NaN); export to bf16 or f32")
        yield data.tobytes() + bytes(-tensor.size % _ALIGNMENT)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(key: str, value: Any) -> bytes:
    """A value with its type; whole numbers are unsigned (token types and scores: lists with types of their own)."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if not isinstance(value, list):
        raise UnsupportedTypeError(f"the value of {key} has no type in GGUF: {value!r:.80}")
    if not value or isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_string, value))
    number, code = (6, "f") if isinstance(value[0], float) else (5, "i")
    return struct.pack(f"<IIQ{len(value)}{code}", 9, number, len(value), *value)
