"""What a model is: one flat, frozen description with the published names. Pure Python; costs no torch import."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fathom.models import checks, published_names, validation
from fathom.models.checks import ConfigError

Architecture = Literal["llama", "qwen2", "deepseek_v2", "deepseek_v3"]
RopeType = Literal["linear", "llama3", "yarn"]


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained length; names as in `rope_scaling` of config.json.

    `mscale`, `mscale_all_dim`, `attention_factor`, `beta_fast`, `beta_slow` belong to YaRN (arXiv 2309.00071);
    `low_freq_factor` and `high_freq_factor` to Llama 3.1. None means "not in the file": what that stands for is
    decided in `fathom.models.rotary`, since DeepSeek's code and transformers differ there.
    """

    type: RopeType
    factor: float
    original_max_position_embeddings: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None

    def __post_init__(self) -> None:
        checks.one_of("rope_scaling.type", self.type, get_args(RopeType))
        checks.number("rope_scaling.factor", self.factor, 1.0, 1e6)
        for name in ("beta_fast", "beta_slow", "low_freq_factor", "high_freq_factor", "attention_factor"):
            if getattr(self, name) is not None:
                checks.number(f"rope_scaling.{name}", getattr(self, name), 1e-6, 1e6)
        for name in ("mscale", "mscale_all_dim"):
            if getattr(self, name) is not None:
                checks.number(f"rope_scaling.{name}", getattr(self, name), 0.0, 1e3)
        if self.type != "linear":
            self._check_trained_length()

    def _check_trained_length(self) -> None:
        if self.original_max_position_embeddings is None:
            raise ConfigError(f"rope_scaling of type {self.type} needs original_max_position_embeddings")
        name = "rope_scaling.original_max_position_embeddings"
        checks.integer(name, self.original_max_position_embeddings, 1, 2**30)
        if self.type == "yarn" and self.beta_fast < self.beta_slow:
            raise ConfigError("rope_scaling.beta_fast must not be below beta_slow")
        if self.type == "llama3":
            if self.low_freq_factor is None or self.high_freq_factor is None:
                raise ConfigError("rope_scaling of type llama3 needs low_freq_factor and high_freq_factor")
            if self.high_freq_factor <= self.low_freq_factor:
                raise ConfigError("rope_scaling.high_freq_factor must be above low_freq_factor")


@dataclass(frozen=True)
class Fp8Quantization:
    """DeepSeek's block-wise FP8 weights (`quantization_config` of V3/R1): one scale per block of a Linear weight."""

    weight_block_size: tuple[int, int] = (128, 128)
    fmt: str = "e4m3"
    activation_scheme: str = "dynamic"
    scale_fmt: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.weight_block_size, tuple) or len(self.weight_block_size) != 2:
            raise ConfigError("quantization_config.weight_block_size must be two whole numbers")
        for size in self.weight_block_size:
            checks.integer("quantization_config.weight_block_size", size, 1, 2**16)
        checks.one_of("quantization_config.fmt", self.fmt, ("e4m3",))
        checks.one_of("quantization_config.activation_scheme", self.activation_scheme, ("dynamic",))
        if self.scale_fmt is not None:
            checks.one_of("quantization_config.scale_fmt", self.scale_fmt, ("float", "ue8m0"))


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model, in the names of the published `config.json` files.

    Fields an architecture does not have keep their defaults: latent attention and experts belong to
    `deepseek_v2`/`deepseek_v3`; `head_dim` and `attention_bias` to `llama` and `qwen2`. Every value is checked when
    the object is made, so whoever holds a ModelConfig may size tensors by it.

    Raises:
        ConfigError: a value of the wrong type, out of range, or contradicting another.

    """

    architecture: Architecture
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    head_dim: int = 0  # 0: hidden_size / num_attention_heads; latent attention has head sizes of its own
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    torch_dtype: str = "bfloat16"
    quantization_config: Fp8Quantization | None = None

    q_lora_rank: int | None = None
    kv_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0

    moe_intermediate_size: int = 0
    n_routed_experts: int = 0
    n_shared_experts: int = 0
    num_experts_per_tok: int = 0
    first_k_dense_replace: int = 0
    moe_layer_freq: int = 1
    n_group: int = 1
    topk_group: int = 1
    topk_method: str = ""
    scoring_func: str = ""
    norm_topk_prob: bool = False
    routed_scaling_factor: float = 1.0
    aux_loss_alpha: float = 0.0
    seq_aux: bool = True
    num_nextn_predict_layers: int = 0

    def __post_init__(self) -> None:
        checks.one_of("architecture", self.architecture, get_args(Architecture))
        if self.head_dim == 0 and not self.is_latent:
            object.__setattr__(self, "head_dim", validation.implied_head_dim(self))
        validation.validate(self)

    @classmethod
    def from_hf(cls, config: Mapping[str, object]) -> "ModelConfig":
        """Read a parsed Hugging Face `config.json`.

        Both spellings of the rotary settings are read (`rope_theta` + `rope_scaling`, and `rope_parameters` of
        transformers 5). Keys that change nothing here are listed in `published_names.HARMLESS`.

        Raises:
            ConfigError: an architecture Fathom does not have, a key that is neither known nor harmless, a missing
                key, or a value that `ModelConfig` refuses.

        """
        values = published_names.read(config)
        scaling, quantization = values.pop("rope_scaling"), values.pop("quantization_config")
        return cls(
            rope_scaling=None if scaling is None else RopeScaling(**scaling),
            quantization_config=None if quantization is None else Fp8Quantization(**quantization),
            **values,
        )

    def to_hf(self) -> dict[str, Any]:
        """Return the `config.json` of this model with the published keys; `from_hf` reads back an equal config."""
        return published_names.write(self)

    @property
    def is_latent(self) -> bool:
        """Whether attention is multi-head latent attention (DeepSeek V2 and V3)."""
        return self.architecture in ("deepseek_v2", "deepseek_v3")

    @property
    def qk_head_dim(self) -> int:
        """Elements of one query or key head, rotary part included."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim if self.is_latent else self.head_dim

    @property
    def rotary_dim(self) -> int:
        """Elements of a head that are rotated."""
        return self.qk_rope_head_dim if self.is_latent else self.head_dim

    @property
    def cache_width(self) -> int:
        """C, elements one token leaves in the cache of one layer: 2*G*K, or R+P for latent attention."""
        if self.is_latent:
            return self.kv_lora_rank + self.qk_rope_head_dim
        return 2 * self.num_key_value_heads * self.head_dim

    @property
    def num_cache_layers(self) -> int:
        """Layers that keep a cache: the main model's, then one per multi-token prediction module."""
        return self.num_hidden_layers + self.num_nextn_predict_layers

    def has_experts(self, layer: int) -> bool:
        """Whether block `layer` (0-based; a prediction module counts as num_hidden_layers + k) is a mixture."""
        return self.n_routed_experts > 0 and (layer >= self.first_k_dense_replace and layer % self.moe_layer_freq == 0)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every id that ends a text."""
        if self.eos_token_id is None:
            return ()
        return self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)
