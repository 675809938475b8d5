"""Tiny random models of the four architectures, and an independent writer of GGUF files for them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from fathom.models import PRESETS, ModelConfig
from fathom.models.cache import NoCache
from fathom.models.transformer import Transformer

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2"}


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Transformer]:
    """A tiny random model: make_model("v3", q_lora_rank=None, ...)."""

    def make(name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Transformer:
        config = replace(PRESETS[f"tiny-{name}"], **changes)
        model = Transformer(config)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.state_dict().values():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.08)
        return model.to(dtype).eval()

    return make


@pytest.fixture(scope="session")
def logits_of() -> Callable[[Transformer], Tensor]:
    """Logits [T, V] for one fixed sequence."""

    @torch.no_grad()
    def run(model: Transformer) -> Tensor:
        tokens = (torch.arange(24) * 37) % model.config.vocab_size
        return model.logits(model(tokens, torch.arange(24), NoCache(1, 24)))

    return run


@pytest.fixture(scope="session")
def write_gguf() -> Callable[..., Path]:
    """Write a model as llama.cpp's converter does, with the gguf package's writer and its own table of names."""
    return _write_gguf


def _permute(tensor: Tensor, heads: int) -> Tensor:
    """LlamaModel.permute of convert_hf_to_gguf.py."""
    return (
        tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
    )


def _published(model: Transformer, merged_kv_b: bool) -> dict[str, Tensor]:
    config, found = model.config, {}
    for name, tensor in model.state_dict().items():
        if any(f"layers.{config.num_hidden_layers + k}." in name for k in range(config.num_nextn_predict_layers)):
            continue
        if config.architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            tensor = _permute(tensor, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)
        if "kv_b_proj" in name and not merged_kv_b:
            heads = tensor.view(config.num_attention_heads, -1, tensor.shape[-1])
            key, value = heads.split([config.qk_nope_head_dim, config.v_head_dim], dim=1)
            found[name.replace("kv_b_proj", "k_b_proj")] = key.transpose(1, 2)
            found[name.replace("kv_b_proj", "v_b_proj")] = value
        else:
            found[name] = tensor
    return found


def _latent_keys(writer: gguf.GGUFWriter, config: ModelConfig, merged_kv_b: bool) -> None:
    writer.add_leading_dense_block_count(config.first_k_dense_replace)
    if config.q_lora_rank is not None:
        writer.add_q_lora_rank(config.q_lora_rank)
    writer.add_kv_lora_rank(config.kv_lora_rank)
    if merged_kv_b:
        writer.add_head_count_kv(config.num_attention_heads)
        writer.add_key_length(config.qk_head_dim)
        writer.add_value_length(config.v_head_dim)
    else:
        writer.add_head_count_kv(1)
        writer.add_key_length(config.kv_lora_rank + config.qk_rope_head_dim)
        writer.add_value_length(config.kv_lora_rank)
        writer.add_key_length_mla(config.qk_head_dim)
        writer.add_value_length_mla(config.v_head_dim)
        writer.add_expert_gating_func(
            gguf.ExpertGatingFuncType.SIGMOID if config.scoring_func == "sigmoid" else gguf.ExpertGatingFuncType.SOFTMAX
        )
    writer.add_expert_group_count(config.n_group)
    writer.add_expert_group_used_count(config.topk_group)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_expert_count(config.n_routed_experts)
    writer.add_expert_shared_count(config.n_shared_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_weights_scale(config.routed_scaling_factor)
    writer.add_expert_weights_norm(config.norm_topk_prob)
    writer.add_rope_dimension_count(config.qk_rope_head_dim)


def _keys(writer: gguf.GGUFWriter, config: ModelConfig, merged_kv_b: bool) -> None:
    writer.add_name("Tiny")
    writer.add_license("mit")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    scaling = config.rope_scaling
    if scaling is not None and scaling.type == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling.factor)
        writer.add_rope_scaling_orig_ctx_len(scaling.original_max_position_embeddings)
        if scaling.mscale_all_dim is not None:
            writer.add_rope_scaling_yarn_log_mul(0.1 * scaling.mscale_all_dim)
    if config.is_latent:
        _latent_keys(writer, config, merged_kv_b)
    else:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if config.bos_token_id is not None:
        writer.add_bos_token_id(config.bos_token_id)
    if config.eos_token_id is not None:
        writer.add_eos_token_id(config.eos_token_id)
    if config.pad_token_id is not None:
        writer.add_pad_token_id(config.pad_token_id)


def _write_gguf(
    model: Transformer,
    path: Path,
    kind: str = "F32",
    *,
    merged_kv_b: bool = False,
    split_tensors: int = 0,
    extra: dict[str, np.ndarray] | None = None,
) -> Path:
    """Return the path to open: the file, or the first of its parts."""
    config = model.config
    architecture = ARCHITECTURES[config.architecture]
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split_tensors)
    _keys(writer, config, merged_kv_b)
    table = gguf.get_tensor_name_map(
        next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture), config.num_hidden_layers
    )
    for name, tensor in _published(model, merged_kv_b).items():
        if name.endswith("e_score_correction_bias"):
            written = name.replace("model.layers", "blk").replace(
                "mlp.gate.e_score_correction_bias", "exp_probs_b.bias"
            )
        else:
            name = name if name.endswith((".weight", ".bias")) else name + ".weight"
            written = table.get_name(name, try_suffixes=(".weight", ".bias"))
            assert written, name
        quantisation = gguf.GGMLQuantizationType[kind]
        if tensor.ndim == 1 or tensor.shape[-1] % gguf.GGML_QUANT_SIZES[quantisation][0]:
            quantisation = gguf.GGMLQuantizationType.F32
        array = tensor.float().contiguous().numpy()
        writer.add_tensor(written, gguf.quantize(array, quantisation), raw_dtype=quantisation)
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if path.is_file() else min(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))
