"""The counts equal the models' own tensors, and the published figures to the digits that were printed."""

from dataclasses import replace

import pytest
import torch

from fathom import costs
from fathom.costs import published
from fathom.models import PRESETS
from fathom.models.transformer import Transformer


def on_meta(config):
    with torch.device("meta"):
        return Transformer(config)


@pytest.mark.parametrize("name", PRESETS)
def test_totals_equal_the_models_tensors(name):
    config = PRESETS[name]
    counted = costs.model_costs(config)
    parameters = sum(p.numel() for p in on_meta(config).parameters())
    assert counted.parameters_total + counted.parameters_prediction == parameters


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-qwen2", "tiny-v2", "tiny-v3"])
@pytest.mark.parametrize("change", [{}, {"tie_word_embeddings": True}], ids=["plain", "tied"])
def test_bytes_equal_the_models_tensors(name, change):
    config = replace(PRESETS[name], **change)
    model = on_meta(config).to(torch.bfloat16)
    held = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    assert costs.weights_bytes(config, "bfloat16") == held


@pytest.mark.parametrize("change", [{"attention_bias": True}, {"head_dim": 24}])
def test_other_llamas(change):
    config = replace(PRESETS["tiny-llama"], **change)
    assert costs.model_costs(config).parameters_total == sum(p.numel() for p in on_meta(config).parameters())


@pytest.mark.parametrize("name", published.SIZES)
def test_published_totals(name):
    size, counted = published.SIZES[name], costs.model_costs(PRESETS[name])
    digits = 1 if size.total_billions < 100 else 0
    assert round(counted.parameters_total / 1e9, digits) == size.total_billions


@pytest.mark.parametrize("name", ["v2", "v2.5", "v3", "r1"])
def test_published_active(name):
    """The output head counts, the embedding look-up does not."""
    active = costs.model_costs(PRESETS[name]).parameters_active
    assert round(active / 1e9) == published.SIZES[name].active_billions


def test_published_active_of_v2_lite():
    """2.451B by the same count; the report prints 2.4B, cut off rather than rounded."""
    active = costs.model_costs(PRESETS["v2-lite"]).parameters_active
    assert int(active / 1e8) / 10 == published.SIZES["v2-lite"].active_billions


def test_prediction_module_of_v3():
    """README_WEIGHTS: 11.5B parameters of its own; that count leaves the input projection out."""
    table = {part.name: part.total for part in costs.prediction_components(PRESETS["v3"])}
    assert round((sum(table.values()) - table["input projection"]) / 1e9, 1) == 11.5


def test_released_v3_file_to_the_byte():
    """FP8 blocks with scales, bfloat16 rest, float32 biases, both copies in the prediction module."""
    assert costs.checkpoint_bytes(PRESETS["v3"], "fp8") == published.V3_CHECKPOINT_BYTES


def test_cache():
    assert costs.cache_bytes_per_token(PRESETS["v3"]) == published.V3_CACHE_BYTES_PER_TOKEN
    assert costs.cache_bytes_per_token(PRESETS["v2"]) == 2 * published.V2_CACHE_ELEMENTS_PER_TOKEN
    assert costs.cache_bytes_per_token(PRESETS["smollm2-135m"]) == 30 * 2 * 3 * 64 * 2


def test_training_hours_of_v3():
    """180K H800 hours for a trillion tokens and 5.3 million dollars for all of them, within a tenth."""
    cost = costs.training_cost(PRESETS["v3"], 1e12)
    assert cost.train_gpu_hours == pytest.approx(published.V3_GPU_HOURS_PER_TRILLION, rel=0.1)
    whole = costs.training_cost(PRESETS["v3"], published.V3_PRETRAINING_TOKENS)
    assert whole.train_cost_usd == pytest.approx(published.V3_TRAINING[0].cost_usd, rel=0.1)


def test_operations_against_the_matrices():
    """A model small enough to add up by hand: every multiply-add of one token."""
    config = PRESETS["tiny-llama"]
    attention = 64 * 64 * 2 + 2 * 64 * 32 + 2 * 10 * 64
    expected = 2 * (3 * (attention + 3 * 64 * 96) + 64 * 512)
    small = costs.forward_flops_per_token(config, 10) - 2 * (3 * 2 * 64 + 64)
    assert small == expected


def test_training_is_three_forwards_with_the_prediction_module():
    config = PRESETS["tiny-v3"]
    without = replace(config, num_nextn_predict_layers=0)
    assert costs.training_flops_per_token(without, 64) == 3 * costs.forward_flops_per_token(without, 32)
    assert costs.training_flops_per_token(config, 64) > costs.training_flops_per_token(without, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"gpu": "abacus"}, "abacus"), ({"mfu": 0}, "mfu"), ({"tokens": 0}, "tokens"), ({"price_usd": -1}, "price")],
)
def test_senseless_plans_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        costs.training_cost(PRESETS["v3"], **{"tokens": 1e12} | arguments)


def test_fp8_needs_a_block_size():
    with pytest.raises(ValueError, match="quantization_config"):
        costs.weights_bytes(PRESETS["v2"], "fp8")


def test_the_published_costs_add_up() -> None:
    from fathom.costs.published import R1_COST_USD, R1_GPU_HOURS, published_table, v2_savings

    *stages, total = published_table("v3")
    assert [stage.gpu_hours for stage in stages] == [2_664_000, 119_000, 5_000]
    assert (total.gpu_hours, total.cost_usd) == (2_788_000, 5_576_000)
    assert [stage.gpu_hours * 2 for stage in published_table("r1")] == [R1_COST_USD]
    assert R1_GPU_HOURS == 147_000
    hours, cache = v2_savings()
    assert (round(hours, 3), round(cache, 3)) == (0.425, 0.933)
    assert published_table("v2-lite") == ()
