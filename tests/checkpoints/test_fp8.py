"""Block-wise FP8: the definition written out as loops, partial blocks, powers of two, and a whole model."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fathom.checkpoints.errors import MismatchError
from fathom.checkpoints.export import export
from fathom.checkpoints.fp8 import dequantise_fp8, quantise_fp8, scale_shape
from fathom.checkpoints.loading import load_model
from fathom.checkpoints.opening import open_checkpoint
from fathom.checkpoints.saving import save_model


def by_loops(weight, scales, size=128):
    result = torch.empty(weight.shape)
    for i in range(0, weight.shape[0], size):
        for j in range(0, weight.shape[1], size):
            block = weight[i : i + size, j : j + size].float()
            result[i : i + size, j : j + size] = block * scales[i // size, j // size].float()
    return result


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 300), columns=st.integers(1, 300), two=st.booleans(), seed=st.integers(0, 1000))
def test_quantise_and_back(rows, columns, two, seed):
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(rows, columns, generator=generator) * torch.rand((), generator=generator) * 10
    weight, scales = quantise_fp8(numbers, powers_of_two=two)
    assert weight.dtype == torch.float8_e4m3fn
    assert tuple(scales.shape) == scale_shape(rows, columns)
    back = dequantise_fp8(weight, scales, torch.float32)
    assert torch.equal(back, by_loops(weight, scales))
    # E4M3 keeps 3 bits after the leading one; below 2^-6 of the scale its steps are 2^-9.
    spread = scales.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
    assert ((back - numbers).abs() <= numbers.abs() / 16 + spread * 2.0**-10 + 1e-12).all()
    if two:
        assert torch.equal(scales, torch.exp2(torch.log2(scales).round()))


def test_an_exact_block_comes_back_exactly():
    numbers = torch.randint(-7, 8, (200, 130)).float() * 64
    numbers[0, 0] = numbers[150, 129] = numbers[0, 129] = numbers[150, 0] = 448
    assert torch.equal(dequantise_fp8(*quantise_fp8(numbers), torch.float32), numbers)


def test_zero_and_tiny_blocks_stay_finite():
    numbers = torch.zeros(256, 128)
    numbers[128:] = 1e-40
    back = dequantise_fp8(*quantise_fp8(numbers), torch.float32)
    assert torch.isfinite(back).all()
    assert not back[:128].any()


def test_scales_stored_as_e8m0():
    weight, scales = quantise_fp8(torch.randn(200, 300), powers_of_two=True)
    stored = scales.to(torch.float8_e8m0fnu)
    assert torch.equal(dequantise_fp8(weight, stored), dequantise_fp8(weight, scales))


def test_scales_of_another_shape_are_refused():
    weight, scales = quantise_fp8(torch.randn(200, 300))
    with pytest.raises(MismatchError, match="200x300"):
        dequantise_fp8(weight, scales[:, :2])


@pytest.fixture
def fp8_folder(make_model, tmp_path):
    """A tiny V3 checkpoint in FP8 as DeepSeek publishes it."""
    save_model(make_model("v3", torch.bfloat16), tmp_path / "plain")
    return export(tmp_path / "plain", tmp_path / "fp8", dtype="fp8")


def test_an_fp8_model_and_its_conversion_give_the_same_logits(fp8_folder, logits_of, tmp_path):
    checkpoint = open_checkpoint(fp8_folder)
    name = "model.layers.1.mlp.experts.0.gate_proj.weight"
    assert checkpoint.info(name).type == "F8_E4M3"
    assert checkpoint.config.quantization_config is not None
    assert not any("scale_inv" in name for name in checkpoint.names())
    for plain in (
        "model.layers.1.mlp.gate.weight",
        "lm_head.weight",
        "model.norm.weight",
        "model.layers.3.eh_proj.weight",
    ):
        assert checkpoint.info(plain).type == "BF16"
    expected = logits_of(load_model(checkpoint, dtype=torch.bfloat16))
    converted = open_checkpoint(export(fp8_folder, tmp_path / "bf16", dtype="bf16", max_shard_bytes=50_000))
    assert converted.config.quantization_config is None
    assert {converted.info(name).type for name in converted.names()} == {"BF16", "F32"}
    assert torch.equal(logits_of(load_model(converted, dtype=torch.bfloat16)), expected)
    stored = checkpoint.stored(name)
    assert torch.equal(
        by_loops(torch.from_numpy(stored.data).view(torch.float8_e4m3fn), stored.scales).bfloat16(),
        converted.tensor(name),
    )


def test_transformers_reads_our_scales_as_we_do(fp8_folder):
    """transformers' own dequantiser on the same two tensors."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    tensors = load_file(fp8_folder / "model.safetensors")
    name = "model.layers.0.self_attn.kv_b_proj.weight"
    weight, scales = tensors[name], tensors[name + "_scale_inv"]
    rows, columns = weight.shape
    if rows % 128 or columns % 128:  # their dequantiser refuses partial blocks
        weight = torch.nn.functional.pad(weight.float(), (0, -columns % 128, 0, -rows % 128)).to(weight.dtype)
    theirs = Fp8Dequantize(None)._dequantize_one(weight, scales, torch.float32)[:rows, :columns]
    assert torch.equal(theirs, open_checkpoint(fp8_folder).tensor(name))


def test_missing_or_contradicting_scales_are_named(fp8_folder):
    path = fp8_folder / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.self_attn.o_proj.weight"
    scales = tensors.pop(name + "_scale_inv")
    save_file(tensors, path)
    with pytest.raises(MismatchError, match="weight_scale_inv is missing"):
        load_model(open_checkpoint(fp8_folder), dtype=torch.bfloat16)
    save_file(tensors | {name + "_scale_inv": scales.repeat(2, 1)}, path)
    with pytest.raises(MismatchError, match="o_proj"):
        load_model(open_checkpoint(fp8_folder), dtype=torch.bfloat16)


def test_other_block_sizes_come_from_the_config(fp8_folder):
    path = fp8_folder / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.self_attn.o_proj.weight"
    weight = tensors[name]
    config = json.loads((fp8_folder / "config.json").read_text())
    config["quantization_config"]["weight_block_size"] = [32, 16]
    (fp8_folder / "config.json").write_text(json.dumps(config))
    scales = torch.rand(-(-weight.shape[0] // 32), -(-weight.shape[1] // 16))
    save_file(tensors | {name + "_scale_inv": scales}, path)
    spread = scales.repeat_interleave(32, 0)[: weight.shape[0]].repeat_interleave(16, 1)[:, : weight.shape[1]]
    assert torch.equal(open_checkpoint(fp8_folder).tensor(name), weight.float() * spread)
