"""The parameters of a model by Hugging Face's names, with their shapes: those of `Transformer`; without torch."""

from fathom.models.config import ModelConfig

Shapes = dict[str, tuple[int, ...]]


def parameter_shapes(config: ModelConfig) -> Shapes:
    """Every entry of the Transformer's state: experts stacked, the head only where it is not the embedding."""
    hidden, main = config.hidden_size, config.num_hidden_layers
    shapes: Shapes = {"model.embed_tokens.weight": (config.vocab_size, hidden), "model.norm.weight": (hidden,)}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    for layer in range(main + config.num_nextn_predict_layers):
        block = _block(config, layer) if layer < main else _block(config, layer) | _prediction(hidden)
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
    return shapes


def _block(config: ModelConfig, layer: int) -> Shapes:
    hidden = config.hidden_size
    attention = _latent(config) if config.is_latent else _grouped(config)
    mixture = config.has_experts(layer)
    feed_forward = _experts(config) if mixture else _feed_forward(hidden, config.intermediate_size)
    norms: Shapes = {f"{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
    return (
        norms
        | {f"self_attn.{name}": shape for name, shape in attention.items()}
        | {f"mlp.{name}": shape for name, shape in feed_forward.items()}
    )


def _prediction(hidden: int) -> Shapes:
    norms: Shapes = {f"{name}.weight": (hidden,) for name in ("enorm", "hnorm", "shared_head.norm")}
    return norms | {"eh_proj.weight": (hidden, 2 * hidden)}


def _grouped(config: ModelConfig) -> Shapes:
    hidden, size = config.hidden_size, config.head_dim
    queries, keys = config.num_attention_heads * size, config.num_key_value_heads * size
    rows = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
    shapes: Shapes = {f"{name}.weight": (count, hidden) for name, count in rows.items()}
    shapes["o_proj.weight"] = (hidden, queries)
    if config.attention_bias:
        shapes |= {f"{name}.bias": (count,) for name, count in rows.items()}
        if config.architecture == "llama":
            shapes["o_proj.bias"] = (hidden,)
    return shapes


def _latent(config: ModelConfig) -> Shapes:
    hidden, heads, rank, query_rank = (
        config.hidden_size,
        config.num_attention_heads,
        config.kv_lora_rank,
        config.q_lora_rank,
    )
    queries = heads * config.qk_head_dim
    shapes: Shapes = {
        "kv_a_proj_with_mqa.weight": (rank + config.qk_rope_head_dim, hidden),
        "kv_a_layernorm.weight": (rank,),
        "kv_b_proj.weight": (heads * (config.qk_nope_head_dim + config.v_head_dim), rank),
        "o_proj.weight": (hidden, heads * config.v_head_dim),
    }
    if query_rank is None:
        return shapes | {"q_proj.weight": (queries, hidden)}
    return shapes | {
        "q_a_proj.weight": (query_rank, hidden),
        "q_a_layernorm.weight": (query_rank,),
        "q_b_proj.weight": (queries, query_rank),
    }


def _feed_forward(hidden: int, width: int) -> Shapes:
    return {
        "gate_proj.weight": (width, hidden),
        "up_proj.weight": (width, hidden),
        "down_proj.weight": (hidden, width),
    }


def _experts(config: ModelConfig) -> Shapes:
    hidden, count, width = config.hidden_size, config.n_routed_experts, config.moe_intermediate_size
    shapes: Shapes = {
        "gate.weight": (count, hidden),
        "experts.gate_proj": (count, width, hidden),
        "experts.up_proj": (count, width, hidden),
        "experts.down_proj": (count, hidden, width),
    }
    if config.architecture == "deepseek_v3":
        shapes["gate.e_score_correction_bias"] = (count,)
    if config.n_shared_experts:
        shared = _feed_forward(hidden, config.n_shared_experts * width)
        shapes |= {f"shared_experts.{name}": shape for name, shape in shared.items()}
    return shapes
