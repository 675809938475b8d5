"""Between `config.json` as published and the fields of ModelConfig: which keys are read, ignored, refused."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fathom.models import checks
from fathom.models.checks import ConfigError

if TYPE_CHECKING:
    from fathom.models.config import Fp8Quantization, ModelConfig

CLASSES = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "DeepseekV2ForCausalLM": "deepseek_v2",
    "DeepseekV3ForCausalLM": "deepseek_v3",
}

# Keys that change nothing in what Fathom computes: provenance, other programs' switches, training-only settings of
# the original framework, and the sizes of a sliding window that `use_sliding_window: false` turns off.
HARMLESS = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_name_or_path",
        "architectures",
        "auto_map",
        "chunk_size_feed_forward",
        "dtype",
        "ep_size",
        "id2label",
        "is_decoder",
        "is_llama_config",
        "label2id",
        "max_window_layers",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pretraining_tp",
        "problem_type",
        "return_dict",
        "router_aux_loss_coef",
        "sliding_window",
        "tokenizer_class",
        "torch_dtype",
        "transformers.js_config",
        "transformers_version",
        "unsloth_fixed",
        "use_cache",
    }
)

# Keys that would change the computation if they held anything else: (accepted values).
_FIXED: Mapping[str, tuple[object, ...]] = {
    "hidden_act": ("silu",),
    "attention_dropout": (0, 0.0, None),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
    "use_mrope": (False, None),
    "rope_interleave": (True, None),
    "rope_interleaved": (False, None),
    "is_encoder_decoder": (False,),
    "cross_attention_hidden_size": (None,),
    "add_cross_attention": (False,),
    "tie_encoder_decoder": (False,),
}

_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
# The authors' classes disagree about what these are when left out, so a file has to say.
_REQUIRED_V3 = ("n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor")
_COMMON = (
    *_REQUIRED,
    "num_key_value_heads",
    "rms_norm_eps",
    "tie_word_embeddings",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
_LATENT = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_EXPERTS = (
    "moe_intermediate_size",
    "n_routed_experts",
    "n_shared_experts",
    "num_experts_per_tok",
    "first_k_dense_replace",
    "moe_layer_freq",
    "n_group",
    "topk_group",
    "topk_method",
    "scoring_func",
    "norm_topk_prob",
    "routed_scaling_factor",
    "aux_loss_alpha",
    "seq_aux",
)
FIELDS: Mapping[str, tuple[str, ...]] = {
    "llama": (*_COMMON, "head_dim", "attention_bias"),
    "qwen2": (*_COMMON, "head_dim"),
    "deepseek_v2": (*_COMMON, *_LATENT, *_EXPERTS, "attention_bias"),
    "deepseek_v3": (*_COMMON, *_LATENT, *_EXPERTS, "attention_bias", "num_nextn_predict_layers"),
}
# What a key stands for when the file leaves it out, as in the authors' own configuration classes.
_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "llama": {},
    "qwen2": {"attention_bias": True},
    "deepseek_v2": {"scoring_func": "softmax", "topk_method": "greedy"},
    "deepseek_v3": {"scoring_func": "sigmoid", "topk_method": "noaux_tc"},
}
_ROPE_EVERY = ("type", "rope_type", "rope_theta", "partial_rotary_factor")
_ROPE_KEYS = {
    "linear": ("factor", "original_max_position_embeddings"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "yarn": (
        "factor",
        "original_max_position_embeddings",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "attention_factor",
    ),
}
_ROPE_ANY = frozenset({*_ROPE_EVERY, *_ROPE_KEYS["llama3"], *_ROPE_KEYS["yarn"]})
_QUANTIZATION = frozenset(
    {"quant_method", "fmt", "activation_scheme", "weight_block_size", "scale_fmt", "modules_to_not_convert"}
)


def read(config: Mapping[str, object]) -> dict[str, Any]:
    """Return the keyword arguments of ModelConfig; `rope_scaling` and `quantization_config` as dicts or None.

    Raises:
        ConfigError: see `ModelConfig.from_hf`.

    """
    checks.mapping("config.json", config)
    architecture = _architecture(config)
    fields = FIELDS[architecture]
    _refuse_unknown(architecture, config, fields)
    values: dict[str, Any] = {"architecture": architecture, **_DEFAULTS[architecture]}
    values |= {name: config[name] for name in fields if config.get(name) is not None}
    required = (*_REQUIRED, *_REQUIRED_V3) if architecture == "deepseek_v3" else _REQUIRED
    missing = [name for name in required if config.get(name) is None]
    if missing:
        raise ConfigError(f"config.json lacks {', '.join(missing)}")
    values.setdefault("num_key_value_heads", values["num_attention_heads"])
    if isinstance(values.get("eos_token_id"), list):
        values["eos_token_id"] = tuple(values["eos_token_id"])
    dtype = config.get("torch_dtype") or config.get("dtype")
    if dtype is not None:
        values["torch_dtype"] = dtype
    values |= _read_rotary(config)
    values["quantization_config"] = _read_quantization(config.get("quantization_config"))
    return values


def write(config: "ModelConfig") -> dict[str, Any]:
    """Return `config` as the dictionary of a published `config.json`."""
    name = next(name for name, architecture in CLASSES.items() if architecture == config.architecture)
    result: dict[str, Any] = {"architectures": [name], "model_type": config.architecture}
    result |= {field: getattr(config, field) for field in FIELDS[config.architecture]}
    if isinstance(config.eos_token_id, tuple):
        result["eos_token_id"] = list(config.eos_token_id)
    result |= {"hidden_act": "silu", "attention_dropout": 0.0, "use_cache": True}
    result |= {"rope_theta": config.rope_theta, "rope_scaling": _write_scaling(config)}
    result["torch_dtype"] = config.torch_dtype
    if config.architecture == "qwen2":
        result["use_sliding_window"] = False
    if config.quantization_config is not None:
        result["quantization_config"] = _write_quantization(config.quantization_config)
    return result


def _architecture(config: Mapping[str, object]) -> str:
    names, kind = config.get("architectures"), config.get("model_type")
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str) and names[0] in CLASSES:
        architecture = CLASSES[names[0]]
    elif not names and isinstance(kind, str) and kind in FIELDS:
        architecture = kind
    else:
        found = names or kind
        raise ConfigError(f"architectures is {found!r:.200}; Fathom has {', '.join(CLASSES)}")
    if config.get("model_type", architecture) != architecture:
        raise ConfigError(f"model_type {config['model_type']!r:.80} contradicts architectures {names!r:.80}")
    return architecture


def _refuse_unknown(architecture: str, config: Mapping[str, object], fields: tuple[str, ...]) -> None:
    special = {"rope_theta", "rope_scaling", "rope_parameters", "quantization_config", "layer_types"}
    implied = _implied(architecture, config)
    checks.known_keys("config.json", config.keys(), HARMLESS | _FIXED.keys() | special | implied.keys() | set(fields))
    for name, accepted in {**_FIXED, **implied}.items():
        if name in config and config[name] not in accepted:
            raise ConfigError(f"{name} is {config[name]!r:.80}; Fathom only computes {accepted[0]!r}")
    layers = config.get("layer_types")
    if layers is not None and not (isinstance(layers, list) and all(kind == "full_attention" for kind in layers)):
        raise ConfigError("layer_types names layers without full attention, which Fathom does not have")


def _implied(architecture: str, config: Mapping[str, object]) -> dict[str, tuple[object, ...]]:
    """Head sizes that transformers 5 writes beside the ones they follow from: accepted when they agree."""
    if architecture not in ("deepseek_v2", "deepseek_v3"):
        return {}
    nope, rope = config.get("qk_nope_head_dim"), config.get("qk_rope_head_dim")
    both = nope + rope if isinstance(nope, int) and isinstance(rope, int) else None
    return {"head_dim": (rope, None), "qk_head_dim": (both, None)}


def _read_rotary(config: Mapping[str, object]) -> dict[str, Any]:
    new = config.get("rope_parameters")
    old = config.get("rope_scaling")
    if new is not None and old is not None and new != old:
        raise ConfigError("config.json has both rope_parameters and rope_scaling, and they differ; remove one")
    settings = dict(checks.mapping("rope_scaling", new if new is not None else old if old is not None else {}))
    checks.known_keys("rope_scaling", settings.keys(), _ROPE_ANY)
    if settings.get("partial_rotary_factor", 1.0) != 1.0:
        raise ConfigError("partial_rotary_factor other than 1 is not supported: no model of these families has it")
    theta = settings.get("rope_theta", config.get("rope_theta"))
    if config.get("rope_theta", theta) != theta:
        raise ConfigError("config.json has two values of rope_theta, and they differ; remove one")
    result: dict[str, Any] = {} if theta is None else {"rope_theta": theta}
    result["rope_scaling"] = _read_scaling(settings)
    return result


def _read_scaling(settings: Mapping[str, object]) -> dict[str, Any] | None:
    kind = settings.get("rope_type", settings.get("type", "default"))
    if settings.get("type", kind) != kind:
        raise ConfigError("rope_scaling has a type and a rope_type that differ; remove one")
    if kind == "default":
        return None
    keys = _ROPE_KEYS[checks.one_of("rope_scaling.type", kind, _ROPE_KEYS)]
    if settings.get("factor") is None:
        raise ConfigError("rope_scaling lacks factor")
    checks.known_keys(f"rope_scaling of type {kind}", settings.keys(), (*keys, *_ROPE_EVERY))
    return {"type": kind} | {key: settings[key] for key in keys if settings.get(key) is not None}


def _write_scaling(config: "ModelConfig") -> dict[str, Any] | None:
    scaling = config.rope_scaling
    if scaling is None:
        return None
    values = {key: getattr(scaling, key) for key in _ROPE_KEYS[scaling.type]}
    # DeepSeek's own code reads `type`, transformers `rope_type`; both are published spellings and both read either.
    spelling = "type" if config.is_latent else "rope_type"
    return {key: value for key, value in values.items() if value is not None} | {spelling: scaling.type}


def _read_quantization(value: object) -> dict[str, Any] | None:
    if value is None:
        return None
    settings = dict(checks.mapping("quantization_config", value))
    checks.known_keys("quantization_config", settings.keys(), _QUANTIZATION)
    checks.one_of("quantization_config.quant_method", settings.pop("quant_method", None), ("fp8",))
    settings.pop("modules_to_not_convert", None)
    block = settings.get("weight_block_size")
    if not isinstance(block, list):
        raise ConfigError("quantization_config lacks weight_block_size (only block-wise FP8 is supported)")
    return settings | {"weight_block_size": tuple(block)}


def _write_quantization(quantization: "Fp8Quantization") -> dict[str, Any]:
    values: dict[str, Any] = {"quant_method": "fp8", "weight_block_size": list(quantization.weight_block_size)}
    values |= {"fmt": quantization.fmt, "activation_scheme": quantization.activation_scheme}
    return values if quantization.scale_fmt is None else values | {"scale_fmt": quantization.scale_fmt}
