"""The rules a ModelConfig must satisfy. Configs come from strangers: each value is checked before it sizes anything."""

import math
from typing import TYPE_CHECKING

from fathom.models import checks
from fathom.models.checks import ConfigError

if TYPE_CHECKING:
    from fathom.models.config import ModelConfig

# Far above any published model, low enough that no product of two overflows and no loop over them is long.
_SIZES = {
    "vocab_size": 2**24,
    "hidden_size": 2**18,
    "intermediate_size": 2**22,
    "num_hidden_layers": 1024,
    "num_attention_heads": 4096,
    "num_key_value_heads": 4096,
    "max_position_embeddings": 2**30,
    "moe_layer_freq": 1024,
}
_LATENT_SIZES = {
    "kv_lora_rank": 2**16,
    "qk_nope_head_dim": 2**14,
    "qk_rope_head_dim": 2**14,
    "v_head_dim": 2**14,
}
_EXPERT_SIZES = {
    "moe_intermediate_size": 2**20,
    "n_routed_experts": 2**16,
    "num_experts_per_tok": 2**10,
    "n_group": 2**16,
    "topk_group": 2**16,
}
_LATENT_ONLY = (*_LATENT_SIZES, "q_lora_rank")
_EXPERTS_ONLY = (
    "moe_intermediate_size",
    "n_routed_experts",
    "n_shared_experts",
    "num_experts_per_tok",
    "first_k_dense_replace",
    "topk_method",
    "scoring_func",
    "norm_topk_prob",
    "num_nextn_predict_layers",
)
_DTYPES = ("bfloat16", "float16", "float32")
_MOST_PARAMETERS = 10**13


def implied_head_dim(config: "ModelConfig") -> int:
    """Return hidden_size / num_attention_heads.

    Raises:
        ConfigError: either is not a positive whole number, or the division leaves a rest.

    """
    hidden = checks.integer("hidden_size", config.hidden_size, 1, _SIZES["hidden_size"])
    heads = checks.integer("num_attention_heads", config.num_attention_heads, 1, _SIZES["num_attention_heads"])
    if hidden % heads:
        raise ConfigError(f"hidden_size {hidden} is not divisible by num_attention_heads {heads}; give head_dim")
    return hidden // heads


def validate(config: "ModelConfig") -> None:
    """Raise ConfigError unless every field of `config` is sane and none contradicts another."""
    for name, largest in _SIZES.items():
        checks.integer(name, getattr(config, name), 1, largest)
    _check_numbers(config)
    _check_token_ids(config)
    if config.is_latent:
        _check_latent(config)
        _check_experts(config)
    else:
        _check_grouped_query(config)
    _check_total(config)


def _check_numbers(config: "ModelConfig") -> None:
    checks.number("rms_norm_eps", config.rms_norm_eps, 1e-12, 1e-1)
    checks.number("rope_theta", config.rope_theta, 1.0 + 1e-6, 1e12)
    checks.number("initializer_range", config.initializer_range, 0.0, 10.0)
    checks.number("routed_scaling_factor", config.routed_scaling_factor, 1e-6, 1e6)
    checks.number("aux_loss_alpha", config.aux_loss_alpha, 0.0, 1e3)
    for name in ("tie_word_embeddings", "attention_bias", "norm_topk_prob", "seq_aux"):
        checks.boolean(name, getattr(config, name))
    checks.one_of("torch_dtype", config.torch_dtype, _DTYPES)


def _check_token_ids(config: "ModelConfig") -> None:
    named = {"bos_token_id": config.bos_token_id, "pad_token_id": config.pad_token_id}
    ids = [(name, value) for name, value in named.items() if value is not None]
    ids += [("eos_token_id", value) for value in config.eos_token_ids]
    if len(ids) > 1024:
        raise ConfigError(f"eos_token_id lists {len(config.eos_token_ids)} ids; at most 1000 make sense")
    for name, value in ids:
        checks.integer(name, value, 0, config.vocab_size - 1)


def _check_grouped_query(config: "ModelConfig") -> None:
    checks.integer("head_dim", config.head_dim, 1, 2**14)
    if config.head_dim % 2:
        raise ConfigError(f"head_dim {config.head_dim} is odd; rotary embedding turns pairs of elements")
    if config.num_attention_heads % config.num_key_value_heads:
        raise ConfigError(
            f"num_attention_heads {config.num_attention_heads} is not divisible by "
            f"num_key_value_heads {config.num_key_value_heads}"
        )
    if config.architecture == "qwen2" and not config.attention_bias:
        raise ConfigError("qwen2 always has biases on q, k and v: attention_bias must be true")
    for name in (*_LATENT_ONLY, *_EXPERTS_ONLY):
        if getattr(config, name):
            raise ConfigError(f"{name} belongs to the DeepSeek architectures, not to {config.architecture}")


def _check_latent(config: "ModelConfig") -> None:
    for name, largest in _LATENT_SIZES.items():
        checks.integer(name, getattr(config, name), 1, largest)
    if config.q_lora_rank is not None:
        checks.integer("q_lora_rank", config.q_lora_rank, 1, 2**16)
    if config.qk_rope_head_dim % 2:
        raise ConfigError(f"qk_rope_head_dim {config.qk_rope_head_dim} is odd; rotary embedding turns pairs")
    if config.num_key_value_heads != config.num_attention_heads:
        raise ConfigError(
            f"num_key_value_heads {config.num_key_value_heads} differs from num_attention_heads "
            f"{config.num_attention_heads}: latent attention expands a key and a value for every head"
        )
    if config.head_dim:
        raise ConfigError("head_dim does not belong to latent attention: qk_nope_head_dim, qk_rope_head_dim do")
    if config.attention_bias:
        raise ConfigError(f"{config.architecture} has no attention biases: attention_bias must be false")


def _check_experts(config: "ModelConfig") -> None:
    checks.integer("n_routed_experts", config.n_routed_experts, 0, _EXPERT_SIZES["n_routed_experts"])
    checks.integer("n_shared_experts", config.n_shared_experts, 0, 1024)
    checks.integer("first_k_dense_replace", config.first_k_dense_replace, 0, _SIZES["num_hidden_layers"])
    checks.integer("num_nextn_predict_layers", config.num_nextn_predict_layers, 0, 64)
    if config.n_routed_experts == 0:
        if config.first_k_dense_replace < config.num_hidden_layers or config.num_nextn_predict_layers:
            raise ConfigError("n_routed_experts is 0, but some blocks are to be mixtures of experts")
        return
    for name, largest in _EXPERT_SIZES.items():
        checks.integer(name, getattr(config, name), 1, largest)
    _check_routing(config)


def _check_routing(config: "ModelConfig") -> None:
    if config.architecture == "deepseek_v3":
        checks.one_of("scoring_func (deepseek_v3)", config.scoring_func, ("sigmoid",))
        checks.one_of("topk_method (deepseek_v3)", config.topk_method, ("noaux_tc",))
    else:
        checks.one_of("scoring_func (deepseek_v2)", config.scoring_func, ("softmax",))
        checks.one_of("topk_method (deepseek_v2)", config.topk_method, ("greedy", "group_limited_greedy"))
    experts, groups, kept = config.n_routed_experts, config.n_group, config.topk_group
    if experts % groups:
        raise ConfigError(f"n_routed_experts {experts} is not divisible by n_group {groups}")
    if kept > groups:
        raise ConfigError(f"topk_group {kept} is more than n_group {groups}")
    grouped = config.topk_method != "greedy"
    choice = experts // groups * kept if grouped else experts
    if config.num_experts_per_tok > choice:
        raise ConfigError(f"num_experts_per_tok {config.num_experts_per_tok} is more than the {choice} to choose from")
    if config.topk_method == "noaux_tc" and kept < groups and experts // groups < 2:
        raise ConfigError("noaux_tc scores a group by its two best experts: n_group leaves only one in each")


def _check_total(config: "ModelConfig") -> None:
    width = config.intermediate_size + config.moe_intermediate_size * config.n_routed_experts
    per_layer = config.hidden_size * (3 * width + config.num_attention_heads * config.qk_head_dim)
    total = per_layer * config.num_cache_layers + config.vocab_size * config.hidden_size
    if total > _MOST_PARAMETERS:
        raise ConfigError(f"this config asks for over 1e{int(math.log10(total))} parameters; no such model exists")
