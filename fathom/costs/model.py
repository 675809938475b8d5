"""What a model costs to hold and to run, from its config alone: bytes and floating-point operations."""

from collections.abc import Mapping
from dataclasses import dataclass

from fathom.costs.parameters import Component, components, prediction_components
from fathom.models import ModelConfig

BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class ModelCosts:
    """The figures people ask for first, of the main model (prediction modules apart, as in the published counts)."""

    parameters_total: int
    parameters_active: int  # multiplied with for one token: the output head counted, the embedding look-up not
    parameters_prediction: int  # of the multi-token prediction modules, without the shared embedding and head
    cache_bytes_per_token: int  # in bfloat16, all layers of the main model
    components: tuple[Component, ...]


def model_costs(config: ModelConfig) -> ModelCosts:
    """Count `config`."""
    table = components(config)
    return ModelCosts(
        parameters_total=sum(part.total for part in table),
        parameters_active=sum(part.active for part in table),
        parameters_prediction=sum(part.total for part in prediction_components(config)),
        cache_bytes_per_token=cache_bytes_per_token(config),
        components=table,
    )


def cache_bytes_per_token(config: ModelConfig, dtype: str = "bfloat16") -> int:
    """Return the bytes that one token leaves in the cache of all layers of the main model (V2, table 1)."""
    return config.num_hidden_layers * config.cache_width * BYTES[dtype]


def weights_bytes(config: ModelConfig, dtype: str, *, with_prediction: bool = True) -> int:
    """Return the bytes of all weights in memory: `dtype` is a key of BYTES, or "fp8" for DeepSeek's FP8 blocks.

    Gates' correction biases are always float32. In FP8 the Linear weights take one byte and a float32 scale per block;
    embedding, norms, gates, head and the prediction modules' input projection stay bfloat16.

    Raises:
        ValueError: "fp8" for a config without quantization_config.

    """
    if dtype == "fp8" and config.quantization_config is None:
        raise ValueError("fp8 needs a config with quantization_config, which says the block size")
    table = components(config) + (prediction_components(config) if with_prediction else ())
    modules = config.num_nextn_predict_layers if with_prediction else 0
    biases = 4 * _correction_biases(config, modules)
    if dtype != "fp8":
        return biases + BYTES[dtype] * sum(part.total for part in table)
    return biases + sum(part.quantised + 4 * part.scales + 2 * (part.total - part.quantised) for part in table)


def checkpoint_bytes(config: ModelConfig, dtype: str) -> int:
    """Return the bytes of all tensors of a published checkpoint: the weights, and each module's copies of two.

    DeepSeek's files repeat the embedding and the output head inside every prediction module.
    """
    copies = 2 * config.num_nextn_predict_layers * config.vocab_size * config.hidden_size
    return weights_bytes(config, dtype) + copies * (2 if dtype == "fp8" else BYTES[dtype])


def forward_flops_per_token(config: ModelConfig, context: int) -> int:
    """Return the operations (a multiply-add is two) of the main model for one token that sees `context` tokens.

    Two per active parameter, plus scores and weighted values of attention in their naive form.
    """
    active = sum(part.active for part in components(config))
    return 2 * active + _attention_flops(config, context) * config.num_hidden_layers


def training_flops_per_token(config: ModelConfig, sequence_length: int) -> int:
    """Return the operations of one training token: three forwards' worth, prediction modules included.

    A causal token sees half its sequence on average. Nothing recomputed is counted, as usual for MFU.
    """
    mean_context = sequence_length // 2
    module = sum(part.active for part in prediction_components(config))
    heads = config.num_nextn_predict_layers * config.vocab_size * config.hidden_size
    prediction = 2 * (module + heads) + config.num_nextn_predict_layers * _attention_flops(config, mean_context)
    return 3 * (forward_flops_per_token(config, mean_context) + prediction)


def _attention_flops(config: ModelConfig, context: int) -> int:
    value = config.v_head_dim if config.is_latent else config.head_dim
    return 2 * context * config.num_attention_heads * (config.qk_head_dim + value)


def _correction_biases(config: ModelConfig, modules: int) -> int:
    if config.topk_method != "noaux_tc":
        return 0
    mixtures = sum(config.has_experts(layer) for layer in range(config.num_hidden_layers)) + modules
    return mixtures * config.n_routed_experts
