"""Configs: what is published reads and writes back; what is unknown, contradictory or absurd is refused by name."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.models import PRESETS, ConfigError, ModelConfig
from fathom.models.config import Fp8Quantization


@pytest.mark.parametrize("name", PRESETS)
def test_presets_read_back(name):
    written = json.loads(json.dumps(PRESETS[name].to_hf()))
    assert ModelConfig.from_hf(written) == PRESETS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_transformers_reads_what_we_write_and_we_read_what_it_writes(name, tmp_path):
    """Its own spelling since version 5 is rope_parameters, and it adds head_dim and qk_head_dim."""
    from transformers import AutoConfig

    published = {key: value for key, value in PRESETS[name].to_hf().items() if key != "quantization_config"}
    (tmp_path / "config.json").write_text(json.dumps(published))
    AutoConfig.from_pretrained(tmp_path).save_pretrained(tmp_path)
    rewritten = json.loads((tmp_path / "config.json").read_text())
    assert "rope_parameters" in rewritten
    assert ModelConfig.from_hf(rewritten) == replace(PRESETS[name], quantization_config=None)


# The whole published config.json of DeepSeek-V3 as it lies on the hub.
V3_PUBLISHED = """{
  "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
  "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
  "aux_loss_alpha": 0.001, "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1, "first_k_dense_replace": 3,
  "hidden_act": "silu", "hidden_size": 7168, "initializer_range": 0.02, "intermediate_size": 18432,
  "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v3", "moe_intermediate_size": 2048,
  "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": true,
  "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128,
  "num_nextn_predict_layers": 1, "pretraining_tp": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
  "qk_rope_head_dim": 64,
  "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                          "weight_block_size": [128, 128]},
  "rms_norm_eps": 1e-06,
  "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                   "original_max_position_embeddings": 4096, "type": "yarn"},
  "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "seq_aux": true,
  "tie_word_embeddings": false, "topk_group": 4, "topk_method": "noaux_tc", "torch_dtype": "bfloat16",
  "transformers_version": "4.33.1", "use_cache": true, "v_head_dim": 128, "vocab_size": 129280
}"""


def test_the_published_v3_file_is_the_preset():
    published = ModelConfig.from_hf(json.loads(V3_PUBLISHED))
    assert replace(published, aux_loss_alpha=0.0) == PRESETS["v3"] == PRESETS["r1"]


def test_ue8m0_scales_are_kept():
    config = json.loads(V3_PUBLISHED)
    config["quantization_config"]["scale_fmt"] = "ue8m0"
    assert ModelConfig.from_hf(config).quantization_config == Fp8Quantization(scale_fmt="ue8m0")


def test_the_published_smollm2_file_is_the_preset():
    """As HuggingFaceTB publishes it beside the safetensors, with the keys of other programs it carries."""
    written = {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "mlp_bias": False,
        "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None,
        "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
        "transformers_version": "4.42.3", "use_cache": True, "vocab_size": 49152,
    }  # fmt: skip
    assert replace(ModelConfig.from_hf(written), initializer_range=0.02) == PRESETS["smollm2-135m"]


def published(name="tiny-v3", **changes):
    return {**PRESETS[name].to_hf(), **changes}


REFUSED = {
    "nearest name": (published(num_expert_per_tok=2), r"num_expert_per_tok.*num_experts_per_tok"),
    "another family's key": (published("tiny-llama", kv_lora_rank=16), "kv_lora_rank"),
    "unknown architecture": (published(architectures=["GPT2LMHeadModel"]), "architectures"),
    "contradicting type": (published(model_type="llama"), "model_type"),
    "no architecture": ({"hidden_size": 8}, "architectures"),
    "missing": ({key: value for key, value in published().items() if key != "vocab_size"}, "lacks vocab_size"),
    "zero": (published(hidden_size=0), "hidden_size"),
    "negative": (published(num_hidden_layers=-1), "num_hidden_layers"),
    "huge": (published(vocab_size=10**400), "vocab_size"),
    "huge together": (published(n_routed_experts=65536, moe_intermediate_size=2**20), "parameters"),
    "float": (published(hidden_size=64.0), "hidden_size"),
    "bool": (published(num_hidden_layers=True), "num_hidden_layers"),
    "string": (published(vocab_size="512"), "vocab_size"),
    "nan": (published(rms_norm_eps=float("nan")), "rms_norm_eps"),
    "list": (published(intermediate_size=[1]), "intermediate_size"),
    "not divisible": (published("tiny-llama", num_attention_heads=3, head_dim=0), "hidden_size 64"),
    "odd head": (published("tiny-llama", head_dim=15), "odd"),
    "heads over groups": (published("tiny-llama", num_key_value_heads=3), "num_key_value_heads"),
    "odd rope": (published(qk_rope_head_dim=7), "odd"),
    "latent key heads": (published(num_key_value_heads=1), "num_key_value_heads"),
    "contradicting head_dim": (published(head_dim=9), "head_dim"),
    "groups": (published(n_group=3), "n_group"),
    "kept groups": (published(topk_group=5), "topk_group"),
    "too many chosen": (published(num_experts_per_tok=9), "num_experts_per_tok"),
    "one expert a group": (published(n_group=16, topk_group=8), "noaux_tc"),
    "method": (published(topk_method="best"), "topk_method"),
    "scoring": (published(scoring_func="softmax"), "scoring_func"),
    "v2 with sigmoid": (published("tiny-v2", scoring_func="sigmoid"), "scoring_func"),
    "activation": (published(hidden_act="gelu"), "hidden_act"),
    "dropout": (published(attention_dropout=0.1), "attention_dropout"),
    "window": (published("tiny-qwen2", use_sliding_window=True), "use_sliding_window"),
    "sliding layers": (published("tiny-qwen2", layer_types=["sliding_attention"]), "layer_types"),
    "half rotation": (published(rope_interleave=False), "rope_interleave"),
    "token id": (published(eos_token_id=512), "eos_token_id"),
    "token list": (published(eos_token_id=[1, -1]), "eos_token_id"),
    "rope type": (published(rope_scaling={"type": "dynamic", "factor": 2}), "dynamic"),
    "rope key": (published(rope_scaling={"type": "yarn", "faktor": 2}), "factor"),
    "rope of another type": (
        published(rope_scaling={"rope_type": "linear", "factor": 2.0, "mscale": 1.0}),
        "mscale",
    ),
    "rope twice": (published(rope_scaling={"type": "linear", "factor": 2.0}, rope_parameters={}), "remove one"),
    "two thetas": (published(rope_theta=1e4, rope_parameters={"rope_theta": 1e6}), "rope_theta"),
    "rope types": (published(rope_scaling={"type": "yarn", "rope_type": "linear", "factor": 2.0}), "remove one"),
    "yarn without length": (published(rope_scaling={"type": "yarn", "factor": 2.0}), "original_max_position"),
    "yarn without factor": (published(rope_scaling={"type": "yarn"}), "factor"),
    "llama3 without factors": (
        published("tiny-llama", rope_scaling={"type": "llama3", "factor": 8.0, "original_max_position_embeddings": 9}),
        "low_freq_factor",
    ),
    "partial rotation": (published(rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}), "partial"),
    "rope not an object": (published(rope_scaling="yarn"), "rope_scaling"),
    "quantised otherwise": (published(quantization_config={"quant_method": "gptq"}), "quant_method"),
    "fp8 without blocks": (published(quantization_config={"quant_method": "fp8"}), "weight_block_size"),
    "block of nothing": (
        published(quantization_config={"quant_method": "fp8", "weight_block_size": [0, 128]}),
        "weight_block_size",
    ),
}


@pytest.mark.parametrize(("config", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_hf(config)


def test_qwen2_without_its_biases_is_refused():
    with pytest.raises(ConfigError, match="attention_bias"):
        replace(PRESETS["tiny-qwen2"], attention_bias=False)


def test_no_experts_where_some_are_needed():
    with pytest.raises(ConfigError, match="n_routed_experts"):
        replace(PRESETS["tiny-v2"], n_routed_experts=0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["tiny-llama", "tiny-qwen2", "tiny-v2", "v3"]), st.data())
def test_any_json_is_a_config_or_a_config_error(name, data):
    """Hostile values in any key never end in another exception, and what is accepted is sane enough to size by."""
    config = PRESETS[name].to_hf()
    for key in data.draw(st.lists(st.sampled_from([*config, "rope_parameters", "layer_types"]), max_size=4)):
        config[key] = data.draw(JSON)
    try:
        accepted = ModelConfig.from_hf(config)
    except ConfigError:
        return
    assert 0 < accepted.cache_width * accepted.num_cache_layers < 2**50


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_any_json_at_all(value):
    with pytest.raises(ConfigError):
        ModelConfig.from_hf(value)


def test_importing_configs_costs_no_torch():
    code = "import sys, fathom.models, fathom.costs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_layers_that_are_mixtures():
    config = replace(PRESETS["tiny-v3"], num_hidden_layers=6, first_k_dense_replace=2, moe_layer_freq=2)
    assert [config.has_experts(layer) for layer in range(6)] == [False, False, True, False, True, False]


@pytest.mark.parametrize("broken", [{"architectures": [[]]}, {"architectures": None, "model_type": []}])
def test_an_architecture_that_is_no_name_is_a_config_error(broken):
    with pytest.raises(ConfigError, match="architectures"):
        ModelConfig.from_hf(PRESETS["tiny-llama"].to_hf() | broken)
