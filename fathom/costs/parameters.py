"""How many parameters a model has, component by component, from its config alone."""

from dataclasses import dataclass

from fathom.models import ModelConfig


@dataclass(frozen=True)
class Component:
    """Parameters of one kind of weight over all blocks.

    `total` are held in memory; `active` take part in the computation of one token; `quantised` are those of `total`
    that DeepSeek's FP8 checkpoints store in blocks, and `scales` the float32 block scales they need for it.
    """

    name: str
    total: int
    active: int
    quantised: int = 0
    scales: int = 0


def components(config: ModelConfig) -> tuple[Component, ...]:
    """Return the table whose `total`s add up to the main model's parameters; prediction modules are not in it.

    The input embedding counts as held, not as active: a token looks one row up and multiplies with none. That is the
    count which gives the published 37B for V3 (36.6) and 21B for V2 (20.9); V2-Lite's 2.4B is 2.45 this way.
    """
    dense = [layer for layer in range(config.num_hidden_layers) if not config.has_experts(layer)]
    sparse = config.num_hidden_layers - len(dense)
    vocabulary = config.vocab_size * config.hidden_size
    return (
        Component("embedding", vocabulary, vocabulary if config.tie_word_embeddings else 0),
        _times(config.num_hidden_layers, "attention", _attention_matrices(config), config),
        _times(len(dense), "feed-forward", _gated(config.hidden_size, config.intermediate_size), config),
        *_mixture(config, sparse),
        _vectors("norms, biases", _norms_and_biases(config) * config.num_hidden_layers + config.hidden_size),
        _vectors("output head", 0 if config.tie_word_embeddings else vocabulary),
    )


def prediction_components(config: ModelConfig) -> tuple[Component, ...]:
    """Return the table of the multi-token prediction modules, without the embedding and head they share.

    README_WEIGHTS of DeepSeek-V3 gives 11.5B for the module: that is this table without its input projection.
    """
    modules = config.num_nextn_predict_layers
    if not modules:
        return ()
    hidden = config.hidden_size
    return (
        _vectors("input projection", modules * 2 * hidden * hidden),
        _times(modules, "attention", _attention_matrices(config), config),
        *_mixture(config, modules),
        _vectors("norms", modules * (_norms_and_biases(config) + 3 * hidden)),
    )


def _mixture(config: ModelConfig, blocks: int) -> tuple[Component, ...]:
    hidden, experts, width = config.hidden_size, config.n_routed_experts, config.moe_intermediate_size
    if not blocks:
        return ()
    one = _times(blocks, "", _gated(hidden, width), config)
    routed = Component(
        "routed experts",
        one.total * experts,
        one.total * config.num_experts_per_tok,
        one.quantised * experts,
        one.scales * experts,
    )
    return (
        routed,
        _times(blocks, "shared experts", _gated(hidden, width * config.n_shared_experts), config),
        _vectors("gates", blocks * experts * hidden),
    )


def _attention_matrices(config: ModelConfig) -> list[tuple[int, int]]:
    hidden, heads = config.hidden_size, config.num_attention_heads
    if not config.is_latent:
        keys = config.num_key_value_heads * config.head_dim
        queries = heads * config.head_dim
        return [(queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries)]
    queries, rank = heads * config.qk_head_dim, config.kv_lora_rank
    query = [(queries, hidden)]
    if config.q_lora_rank is not None:
        query = [(config.q_lora_rank, hidden), (queries, config.q_lora_rank)]
    expansion = heads * (config.qk_nope_head_dim + config.v_head_dim)
    return [*query, (config.cache_width, hidden), (expansion, rank), (hidden, heads * config.v_head_dim)]


def _gated(hidden: int, width: int) -> list[tuple[int, int]]:
    return [(width, hidden), (width, hidden), (hidden, width)]


def _norms_and_biases(config: ModelConfig) -> int:
    norms = 2 * config.hidden_size
    if config.is_latent:
        return norms + config.kv_lora_rank + (config.q_lora_rank or 0)
    if not config.attention_bias:
        return norms
    output = config.hidden_size if config.architecture == "llama" else 0
    return norms + (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim + output


def _vectors(name: str, total: int) -> Component:
    return Component(name, total, total)


def _times(blocks: int, name: str, matrices: list[tuple[int, int]], config: ModelConfig) -> Component:
    """Return `blocks` copies of some Linear weights as one component."""
    total = blocks * sum(rows * columns for rows, columns in matrices)
    if config.quantization_config is None:
        return Component(name, total, total)
    high, wide = config.quantization_config.weight_block_size
    scales = blocks * sum(-(-rows // high) * -(-columns // wide) for rows, columns in matrices)
    return Component(name, total, total, total, scales)
