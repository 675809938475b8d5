"""From GGUF metadata (llama.cpp: gguf-py/gguf/constants.py, convert_hf_to_gguf.py) to a ModelConfig."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fathom.checkpoints.errors import InvalidConfigError, UnsupportedTypeError
from fathom.models.checks import ConfigError
from fathom.models.config import ModelConfig, RopeScaling

ARCHITECTURES = ("llama", "qwen2", "deepseek2")
_SOFTMAX, _SIGMOID = 1, 2
# Expert groups (n_group, topk_group) by number of routed experts, for files older than the keys that state them.
_PUBLISHED_GROUPS = {160: (8, 3), 256: (8, 4)}
_LLAMA3_FACTORS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3_TRAINED_LENGTH = 8192


class Keys:
    """Typed access to the metadata of one architecture; numbers come back as their shortest float32 spelling."""

    def __init__(self, metadata: Mapping[str, object], architecture: str) -> None:
        self._metadata = metadata
        self._architecture = architecture

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `ARCHITECTURE.key`; floats lose the digits that float32 added (9.99999997e-06 is 1e-05)."""
        value = self._metadata.get(f"{self._architecture}.{key}", default)
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def need(self, key: str) -> Any:
        """Like get, for a key that must be there."""
        value = self.get(key)
        if value is None:
            raise InvalidConfigError(f"the GGUF metadata lack {self._architecture}.{key}")
        return value


def read_config(
    metadata: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]], rope_factors: list[float] | None
) -> ModelConfig:
    """The model's shape.

    Args:
        metadata: all of the file's.
        shapes: row-major shapes by GGUF name; what the metadata leave open (vocabulary, tied head, biases) is read
            from them.
        rope_factors: the values of `rope_freqs.weight`, by which llama.cpp stores Llama 3.1's rope scaling.

    Raises:
        UnsupportedTypeError: another architecture.
        InvalidConfigError: missing or contradictory metadata.

    """
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UnsupportedTypeError(
            f"the GGUF architecture {architecture!r:.80} is not supported; Fathom has {', '.join(ARCHITECTURES)}"
        )
    keys = Keys(metadata, str(architecture))
    if "token_embd.weight" not in shapes:
        raise InvalidConfigError("the GGUF file has no token_embd.weight, so the size of the vocabulary is unknown")
    try:
        values = _common(keys, metadata, shapes)
        values |= _latent(keys, shapes) if architecture == "deepseek2" else _grouped(keys, shapes, str(architecture))
        values["rope_scaling"] = _rope_scaling(keys, rope_factors)
        return ModelConfig(**values)
    except ConfigError as error:
        raise InvalidConfigError(f"the GGUF metadata: {error}") from error


def _common(keys: Keys, metadata: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    ends = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    ends = list(dict.fromkeys(end for end in ends if end is not None))
    predicted = keys.get("nextn_predict_layers", 0)
    blocks = keys.need("block_count")
    if type(blocks) is not int or type(predicted) is not int:
        raise InvalidConfigError("block_count or nextn_predict_layers is not a whole number")
    return {
        "vocab_size": shapes["token_embd.weight"][0],
        "hidden_size": keys.need("embedding_length"),
        "intermediate_size": _one_number(keys.need("feed_forward_length")),
        "num_hidden_layers": blocks - predicted,
        "num_attention_heads": _one_number(keys.need("attention.head_count")),
        "max_position_embeddings": keys.need("context_length"),
        "rms_norm_eps": keys.get("attention.layer_norm_rms_epsilon", 1e-6),
        "rope_theta": keys.get("rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in shapes,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": (ends[0] if len(ends) == 1 else tuple(ends)) if ends else None,
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
    }


def _one_number(value: Any) -> Any:
    """Some keys may be lists, one number a layer; models of these architectures have the same in every layer."""
    if not isinstance(value, list):
        return value
    if not value or any(item != value[0] for item in value):
        raise InvalidConfigError(f"layers of different shapes are not supported ({value!r:.80})")
    return value[0]


def _grouped(keys: Keys, shapes: Mapping[str, tuple[int, ...]], architecture: str) -> dict[str, Any]:
    heads = _one_number(keys.need("attention.head_count"))
    values = {
        "architecture": architecture,
        "num_key_value_heads": _one_number(keys.get("attention.head_count_kv", heads)),
        "head_dim": keys.get("attention.key_length", 0),
        "attention_bias": "blk.0.attn_q.bias" in shapes,
    }
    head_dim = values["head_dim"] or (keys.need("embedding_length") // heads if heads else 0)
    if keys.get("rope.dimension_count", head_dim) != head_dim:
        raise UnsupportedTypeError("rotary embedding of only a part of each head is not supported")
    if keys.get("attention.value_length", head_dim) != head_dim:
        raise UnsupportedTypeError("values of another size than keys are not supported in this architecture")
    if keys.get("expert_count", 0):
        raise UnsupportedTypeError(f"mixtures of experts in the architecture {architecture} are not supported")
    return values


def _latent(keys: Keys, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """DeepSeek V2 and V3: new files describe the latent cache in head_count_kv and key_length, old ones the heads."""
    rope = keys.need("rope.dimension_count")
    key_length = keys.get("attention.key_length_mla") or keys.need("attention.key_length")
    biased = any(name.endswith("exp_probs_b.bias") for name in shapes)
    sigmoid = keys.get("expert_gating_func", _SIGMOID if biased else _SOFTMAX) == _SIGMOID
    experts = keys.get("expert_count", 0)
    groups, kept = _groups(keys, experts)
    return {
        "architecture": "deepseek_v3" if sigmoid else "deepseek_v2",
        "num_key_value_heads": _one_number(keys.need("attention.head_count")),
        "q_lora_rank": keys.get("attention.q_lora_rank") if "blk.0.attn_q_a.weight" in shapes else None,
        "kv_lora_rank": keys.need("attention.kv_lora_rank"),
        "qk_nope_head_dim": key_length - rope,
        "qk_rope_head_dim": rope,
        "v_head_dim": keys.get("attention.value_length_mla") or keys.need("attention.value_length"),
        "moe_intermediate_size": keys.get("expert_feed_forward_length", 0),
        "n_routed_experts": experts,
        "n_shared_experts": keys.get("expert_shared_count", 0),
        "num_experts_per_tok": keys.get("expert_used_count", 0),
        "first_k_dense_replace": keys.get("leading_dense_block_count", 0),
        "n_group": groups,
        "topk_group": kept,
        "topk_method": "noaux_tc" if sigmoid else "group_limited_greedy" if groups > 1 else "greedy",
        "scoring_func": "sigmoid" if sigmoid else "softmax",
        "norm_topk_prob": keys.get("expert_weights_norm", False),
        "routed_scaling_factor": keys.get("expert_weights_scale", 1.0) or 1.0,
        "num_nextn_predict_layers": keys.get("nextn_predict_layers", 0),
    }


def _groups(keys: Keys, experts: Any) -> tuple[Any, Any]:
    stated = keys.get("expert_group_count")
    if stated is not None:
        return stated, keys.get("expert_group_used_count", stated)
    return _PUBLISHED_GROUPS.get(experts, (1, 1))


def _rope_scaling(keys: Keys, rope_factors: list[float] | None) -> RopeScaling | None:
    kind = keys.get("rope.scaling.type", "none")
    if rope_factors is not None:
        return _llama3_scaling(keys, rope_factors)
    if kind == "none":
        return None
    if kind == "linear":
        return RopeScaling("linear", keys.need("rope.scaling.factor"))
    if kind != "yarn":
        raise UnsupportedTypeError(f"rope scaling of type {kind!r:.80} is not supported")
    # For deepseek2, llama.cpp stores 0.1 * mscale_all_dim; mscale itself equals it in every published model.
    multiplier = keys.get("rope.scaling.yarn_log_multiplier")
    mscale = None if multiplier is None else float(str(np.float32(10 * multiplier)))
    return RopeScaling(
        "yarn",
        keys.need("rope.scaling.factor"),
        keys.need("rope.scaling.original_context_length"),
        beta_fast=keys.get("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.get("rope.scaling.yarn_beta_slow", 1.0),
        mscale=mscale,
        mscale_all_dim=mscale,
    )


def _llama3_scaling(keys: Keys, factors: list[float]) -> RopeScaling | None:
    """Recognise Llama 3.1's scaling in the table of divisors that llama.cpp stores instead of its parameters.

    The table must come out again from the published parameters (low 1, high 4, trained length 8192) and its own
    largest entry; another one is refused rather than approximated.
    """
    if all(factor == 1.0 for factor in factors):
        return None
    largest = float(str(np.float32(max(factors))))
    expected = llama3_table(2 * len(factors), float(keys.get("rope.freq_base", 10000.0)), largest)
    if not np.allclose(factors, expected, rtol=1e-4):
        raise UnsupportedTypeError("rope_freqs.weight is not the table of Llama 3.1's rope scaling: not supported")
    return RopeScaling("llama3", largest, _LLAMA3_TRAINED_LENGTH, **_LLAMA3_FACTORS)


def llama3_table(head_dim: int, theta: float, factor: float) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """What each rotary frequency is divided by (transformers: _compute_llama3_parameters)."""
    low, high = _LLAMA3_FACTORS["low_freq_factor"], _LLAMA3_FACTORS["high_freq_factor"]
    wavelengths = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((_LLAMA3_TRAINED_LENGTH / wavelengths - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - smooth) / factor + smooth))
