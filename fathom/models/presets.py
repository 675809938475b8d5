"""The published models, value for value as in their `config.json` on the hub, and one tiny shape per architecture.

Sources: the hub's `config.json` files of deepseek-ai and the technical reports (V2: arXiv 2405.04434, V3: arXiv
2412.19437). V2 and V2-Lite carry YaRN's mscale 0.707, V2.5 and V3 1.0. All configs say `initializer_range` 0.02,
while both reports train with 0.006.
"""

from collections.abc import Mapping
from dataclasses import replace

from fathom.models.config import Fp8Quantization, ModelConfig, RopeScaling


def _yarn(mscale: float) -> RopeScaling:
    return RopeScaling(
        type="yarn",
        factor=40.0,
        original_max_position_embeddings=4096,
        beta_fast=32.0,
        beta_slow=1.0,
        mscale=mscale,
        mscale_all_dim=mscale,
    )


_V2 = ModelConfig(
    architecture="deepseek_v2",
    vocab_size=102400,
    hidden_size=5120,
    intermediate_size=12288,
    num_hidden_layers=60,
    num_attention_heads=128,
    num_key_value_heads=128,
    max_position_embeddings=163840,
    rope_scaling=_yarn(0.707),
    bos_token_id=100000,
    eos_token_id=100001,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    moe_intermediate_size=1536,
    n_routed_experts=160,
    n_shared_experts=2,
    num_experts_per_tok=6,
    first_k_dense_replace=1,
    n_group=8,
    topk_group=3,
    topk_method="group_limited_greedy",
    scoring_func="softmax",
    routed_scaling_factor=16.0,
    aux_loss_alpha=0.001,
)

_V2_LITE = replace(
    _V2,
    hidden_size=2048,
    intermediate_size=10944,
    num_hidden_layers=27,
    num_attention_heads=16,
    num_key_value_heads=16,
    q_lora_rank=None,
    moe_intermediate_size=1408,
    n_routed_experts=64,
    n_group=1,
    topk_group=1,
    topk_method="greedy",
    routed_scaling_factor=1.0,
)

_V3 = ModelConfig(
    architecture="deepseek_v3",
    vocab_size=129280,
    hidden_size=7168,
    intermediate_size=18432,
    num_hidden_layers=61,
    num_attention_heads=128,
    num_key_value_heads=128,
    max_position_embeddings=163840,
    rope_scaling=_yarn(1.0),
    bos_token_id=0,
    eos_token_id=1,
    quantization_config=Fp8Quantization(),
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    moe_intermediate_size=2048,
    n_routed_experts=256,
    n_shared_experts=1,
    num_experts_per_tok=8,
    first_k_dense_replace=3,
    n_group=8,
    topk_group=4,
    topk_method="noaux_tc",
    scoring_func="sigmoid",
    norm_topk_prob=True,
    routed_scaling_factor=2.5,
    num_nextn_predict_layers=1,
)


def _qwen(hidden: int, layers: int, heads: int, key_value_heads: int, width: int, **other: float) -> ModelConfig:
    base = ModelConfig(
        architecture="qwen2",
        vocab_size=152064,
        hidden_size=hidden,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=131072,
        attention_bias=True,
        bos_token_id=151643,
        eos_token_id=151643,
    )
    return replace(base, **other)  # type: ignore[arg-type]


_LLAMA_8B = ModelConfig(
    architecture="llama",
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=131072,
    rms_norm_eps=1e-5,
    rope_theta=500000.0,
    rope_scaling=RopeScaling(
        type="llama3",
        factor=8.0,
        original_max_position_embeddings=8192,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
    ),
    bos_token_id=128000,
    eos_token_id=128001,
)

_SMOLLM2 = ModelConfig(
    architecture="llama",
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    rope_theta=100000.0,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=2,
)

_TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
    "torch_dtype": "float32",
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_TINY_DEEPSEEK = _TINY | {
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "moe_intermediate_size": 32,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
}

PRESETS: Mapping[str, ModelConfig] = {
    "v2-lite": _V2_LITE,
    "v2": _V2,
    "v2.5": replace(_V2, rope_scaling=_yarn(1.0)),
    "v3": _V3,
    "r1": _V3,
    "r1-distill-qwen-1.5b": _qwen(1536, 28, 12, 2, 8960, vocab_size=151936),
    "r1-distill-qwen-7b": _qwen(3584, 28, 28, 4, 18944),
    "r1-distill-qwen-14b": _qwen(5120, 48, 40, 8, 13824, rope_theta=1000000.0, rms_norm_eps=1e-5),
    "r1-distill-qwen-32b": _qwen(5120, 64, 40, 8, 27648, rope_theta=1000000.0, rms_norm_eps=1e-5),
    "r1-distill-llama-8b": _LLAMA_8B,
    "r1-distill-llama-70b": replace(
        _LLAMA_8B, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, head_dim=128
    ),
    "smollm2-135m": _SMOLLM2,
    "tiny-llama": ModelConfig(**_TINY | {"architecture": "llama", "num_key_value_heads": 2}),  # type: ignore[arg-type]
    "tiny-qwen2": ModelConfig(
        **_TINY | {"architecture": "qwen2", "num_key_value_heads": 2, "attention_bias": True}  # type: ignore[arg-type]
    ),
    "tiny-v2": ModelConfig(
        **_TINY_DEEPSEEK
        | {
            "architecture": "deepseek_v2",
            "n_shared_experts": 2,
            "topk_method": "group_limited_greedy",
            "scoring_func": "softmax",
            "routed_scaling_factor": 16.0,
        }  # type: ignore[arg-type]
    ),
    "tiny-v3": ModelConfig(
        **_TINY_DEEPSEEK
        | {
            "architecture": "deepseek_v3",
            "n_shared_experts": 1,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "num_nextn_predict_layers": 1,
        }  # type: ignore[arg-type]
    ),
}
