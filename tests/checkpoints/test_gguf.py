"""GGUF files written with the gguf package: logits equal the model's they were written from, files may lie."""

import struct
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch

from fathom.checkpoints.errors import (
    CheckpointError,
    InvalidConfigError,
    MalformedFileError,
    MismatchError,
    SourceError,
    UnsupportedTypeError,
)
from fathom.checkpoints.gguf_config import llama3_table
from fathom.checkpoints.gguf_format import GGUFFile
from fathom.checkpoints.loading import load_model
from fathom.checkpoints.opening import open_checkpoint
from fathom.models import RopeScaling

YARN = RopeScaling("yarn", 40.0, original_max_position_embeddings=64, mscale=0.707, mscale_all_dim=0.707)
MODELS = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-biases": ("llama", {"attention_bias": True}),
    "qwen2": ("qwen2", {}),
    "qwen2-yarn": ("qwen2", {"rope_scaling": RopeScaling("yarn", 4.0, original_max_position_embeddings=64)}),
    "v2": ("v2", {}),
    "v2-no-query-rank": ("v2", {"q_lora_rank": None, "rope_scaling": YARN}),
    "v2-greedy": ("v2", {"topk_method": "greedy", "n_group": 1, "topk_group": 1}),
    "v3": ("v3", {}),
    "v3-yarn": ("v3", {"rope_scaling": replace(YARN, mscale=1.0, mscale_all_dim=1.0)}),
}


def same(model, loaded, logits_of):
    torch.testing.assert_close(logits_of(loaded), logits_of(model), atol=0, rtol=0)


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("merged_kv_b", [False, True])
def test_a_file_gives_the_logits_of_the_model_it_was_written_from(
    case, merged_kv_b, make_model, write_gguf, logits_of, tmp_path
):
    name, changes = MODELS[case]
    model = make_model(name, **changes)
    if merged_kv_b and not model.config.is_latent:
        pytest.skip("only latent attention has a kv_b")
    checkpoint = open_checkpoint(write_gguf(model, tmp_path / "tiny.gguf", merged_kv_b=merged_kv_b))
    loaded = load_model(checkpoint, dtype=torch.float32)
    expected = replace(
        model.config, torch_dtype="bfloat16", initializer_range=0.02, aux_loss_alpha=0.0, num_nextn_predict_layers=0
    )
    assert replace(checkpoint.config, initializer_range=0.02) == expected
    assert (checkpoint.name, checkpoint.licence) == ("Tiny", "mit")
    same(model, loaded, logits_of)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_quantised_files_give_what_the_gguf_package_reads_from_them(kind, make_model, write_gguf, tmp_path):
    model = make_model("llama")
    path = write_gguf(model, tmp_path / "tiny.gguf", kind)
    checkpoint = open_checkpoint(path)
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for ours, name in [("mlp.down_proj", "ffn_down"), ("self_attn.v_proj", "attn_v")]:
        tensor = theirs[f"blk.1.{name}.weight"]
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        full = f"model.layers.1.{ours}.weight"
        np.testing.assert_array_equal(checkpoint.tensor(full, torch.float32).numpy(), expected)
        assert checkpoint.stored(full).type == checkpoint.info(full).type == kind
        np.testing.assert_array_equal(checkpoint.stored(full).data, tensor.data.view(np.uint8))


def test_stored_rows_of_q_and_k_are_in_hugging_face_order(make_model, write_gguf, tmp_path):
    model = make_model("llama")
    checkpoint = open_checkpoint(write_gguf(model, tmp_path / "tiny.gguf", "Q8_0"))
    for part in ("q_proj", "k_proj", "v_proj"):
        name = f"model.layers.0.self_attn.{part}.weight"
        blocks = gguf.quantize(model.state_dict()[name].numpy(), gguf.GGMLQuantizationType.Q8_0)
        np.testing.assert_array_equal(checkpoint.stored(name).data, blocks)


def test_an_expert_is_a_view_of_its_stack(make_model, write_gguf, tmp_path):
    model = make_model("v3")
    checkpoint = open_checkpoint(write_gguf(model, tmp_path / "tiny.gguf"))
    stack = model.state_dict()["model.layers.1.mlp.experts.up_proj"]
    for expert in (0, 3):
        name = f"model.layers.1.mlp.experts.{expert}.up_proj.weight"
        assert torch.equal(checkpoint.tensor(name), stack[expert])
        assert checkpoint.info(name).shape == tuple(stack[expert].shape)
        assert checkpoint.info(name).bytes == stack[expert].nbytes


def test_plain_tensors_are_views_of_the_map_and_writing_to_them_leaves_the_file_alone(make_model, write_gguf, tmp_path):
    path = write_gguf(make_model("qwen2"), tmp_path / "tiny.gguf")
    before = path.read_bytes()
    checkpoint = open_checkpoint(path)
    first, again = (checkpoint.tensor("model.embed_tokens.weight") for _ in range(2))
    assert first.data_ptr() == again.data_ptr()
    first.zero_()
    assert path.read_bytes() == before


def test_split_files_open_from_any_part_and_miss_none(make_model, write_gguf, logits_of, tmp_path):
    model = make_model("qwen2")
    first = write_gguf(model, tmp_path / "tiny.gguf", split_tensors=7)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) > 2
    for path in (first, parts[-1], tmp_path):
        same(model, load_model(open_checkpoint(path), dtype=torch.float32), logits_of)
    parts[1].rename(tmp_path / "aside")
    with pytest.raises(SourceError, match=parts[1].name):
        open_checkpoint(first)
    parts[1].write_bytes(parts[2].read_bytes())
    with pytest.raises(MalformedFileError, match="part 2"):
        open_checkpoint(first)


def test_llama3_rope_scaling_is_recognised_by_its_table(make_model, write_gguf, tmp_path):
    scaling = RopeScaling(
        "llama3", 8.0, original_max_position_embeddings=8192, low_freq_factor=1.0, high_freq_factor=4.0
    )
    model = make_model("llama", rope_scaling=scaling, rope_theta=500000.0)
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    published = {key: value for key, value in model.config.to_hf().items() if key not in ("model_type", "torch_dtype")}
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](LlamaConfig(**published), "cpu")
    plain = 500000.0 ** (-torch.arange(0, model.config.head_dim, 2, dtype=torch.float64) / model.config.head_dim)
    table = (plain / scaled.double()).float().numpy()
    np.testing.assert_allclose(table, llama3_table(model.config.head_dim, 500000.0, 8.0), rtol=1e-5)
    path = write_gguf(model, tmp_path / "tiny.gguf", extra={"rope_freqs.weight": table})
    assert open_checkpoint(path).config.rope_scaling == scaling
    path = write_gguf(model, tmp_path / "odd.gguf", extra={"rope_freqs.weight": table[::-1].copy()})
    with pytest.raises(UnsupportedTypeError, match="rope_freqs"):
        open_checkpoint(path)


def test_the_default_model_reads_like_the_gguf_package_reads_it(smollm2_gguf):
    checkpoint = open_checkpoint(smollm2_gguf)
    theirs = gguf.GGUFReader(smollm2_gguf)
    assert len(checkpoint.names()) == len(theirs.tensors) == 272
    for key in ("tokenizer.chat_template", "general.license", "llama.rope.freq_base"):
        assert checkpoint.metadata[key] == theirs.get_field(key).contents()
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges"):
        assert checkpoint.metadata[key][-2000:] == theirs.get_field(key).contents(slice(-2000, None))
    tensor = next(tensor for tensor in theirs.tensors if tensor.name == "blk.7.ffn_up.weight")
    ours = checkpoint.tensor("model.layers.7.mlp.up_proj.weight")
    np.testing.assert_array_equal(ours.numpy(), gguf.dequantize(tensor.data, tensor.tensor_type))


# Files that lie.


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def key_value(key: str, kind: int, payload: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + payload


def row(name: str, sizes: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def file_of(rows=(), pairs=(), tensors=None, keys=None, data=b"\0" * 4096, version=3, magic=b"GGUF") -> bytes:
    header = magic + struct.pack(
        "<IQQ", version, len(rows) if tensors is None else tensors, len(pairs) if keys is None else keys
    )
    body = header + b"".join(pairs) + b"".join(rows)
    return body + b"\0" * (-len(body) % 32) + data


U32, STRING, ARRAY = 4, 8, 9
LIES = {
    "empty": b"",
    "short": b"GGUF\3\0\0\0",
    "other magic": file_of(magic=b"GGML"),
    "huge tensor count": file_of(tensors=2**60),
    "huge key count": file_of(keys=2**63),
    "huge string": file_of(pairs=[struct.pack("<Q", 2**62) + b"abc"]),
    "huge string value": file_of(pairs=[key_value("a", STRING, struct.pack("<Q", 2**40))]),
    "huge array": file_of(pairs=[key_value("a", ARRAY, struct.pack("<IQ", 4, 2**61))]),
    "huge string array": file_of(pairs=[key_value("a", ARRAY, struct.pack("<IQ", 8, 2**23))]),
    "huge nested array": file_of(pairs=[key_value("a", ARRAY, struct.pack("<IQ", 9, 2**61))]),
    "deep array": file_of(pairs=[key_value("a", ARRAY, struct.pack("<IQ", 9, 1) * 50)]),
    "unknown value type": file_of(pairs=[key_value("a", 99, b"\0" * 8)]),
    "not UTF-8": file_of(pairs=[key_value("a", STRING, struct.pack("<Q", 2) + b"\xff\xfe")]),
    "not UTF-8 in array": file_of(pairs=[key_value("a", ARRAY, struct.pack("<IQQ", 8, 1, 2) + b"\xff\xfe")]),
    "half a string in an array": file_of(pairs=[key_value("a", ARRAY, struct.pack("<IQQ", 8, 2, 0))], data=b""),
    "same key twice": file_of(pairs=[key_value("a", U32, b"\0" * 4)] * 2),
    "same tensor twice": file_of([row("t", (8,)), row("t", (8,), offset=32)]),
    "overlap": file_of([row("t", (64,)), row("u", (64,), offset=32)]),
    "beyond the end": file_of([row("t", (2048,))]),
    "offset beyond the end": file_of([row("t", (8,), offset=1 << 40)]),
    "sizes whose product overflows": file_of([row("t", (2**32, 2**32, 2**32))]),
    "no dimensions": file_of([row("t", ())]),
    "nine dimensions": file_of([row("t", (1,) * 9)]),
    "size zero": file_of([row("t", (0, 4))]),
    "half a block": file_of([row("t", (48,), kind=2)]),
    "unknown tensor type": file_of([row("t", (32,), kind=1000)]),
    "misaligned": file_of([row("t", (8,), offset=8)]),
    "alignment zero": file_of([row("t", (8,))], [key_value("general.alignment", U32, b"\0" * 4)]),
    "alignment a string": file_of([row("t", (8,))], [key_value("general.alignment", STRING, text("32"))]),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_header_is_refused(lie, tmp_path):
    path = tmp_path / "lie.gguf"
    path.write_bytes(LIES[lie])
    with pytest.raises(MalformedFileError):
        GGUFFile(path)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (file_of([row("t", (256,), kind=16)]), "IQ2_XXS"),
        (file_of([row("t", (32,), kind=39)]), "MXFP4"),
        (file_of(version=1), "version 1"),
        (file_of(version=0x03000000), "big-endian"),
    ],
)
def test_what_is_not_supported_is_named(data, named, tmp_path):
    path = tmp_path / "other.gguf"
    path.write_bytes(data)
    with pytest.raises(UnsupportedTypeError, match=named):
        GGUFFile(path)


def test_an_honest_header_built_the_same_way_is_read(tmp_path):
    path = tmp_path / "good.gguf"
    pairs = [key_value("a", ARRAY, struct.pack("<IQ3I", U32, 3, 5, 6, 7)), key_value("b", STRING, text("ü"))]
    path.write_bytes(file_of([row("t", (8,)), row("u", (32, 2), kind=2, offset=64)], pairs))
    file = GGUFFile(path)
    assert file.metadata == {"a": [5, 6, 7], "b": "ü"}
    assert file.tensors["u"].shape == (2, 32)
    assert file.stored("u").size == 36


@pytest.mark.parametrize("architecture", ["gpt2", "deepseek2\0", ""])
def test_another_architecture_is_named(architecture, tmp_path):
    path = tmp_path / "other.gguf"
    path.write_bytes(file_of([row("t", (8,))], [key_value("general.architecture", STRING, text(architecture))]))
    with pytest.raises(UnsupportedTypeError, match="llama, qwen2, deepseek2"):
        open_checkpoint(path)


def test_metadata_of_wrong_types_are_refused(tmp_path):
    pairs = [
        key_value("general.architecture", STRING, text("llama")),
        key_value("llama.block_count", STRING, text("many")),
    ]
    path = tmp_path / "odd.gguf"
    path.write_bytes(file_of([row("token_embd.weight", (8, 8))], pairs))
    with pytest.raises(InvalidConfigError):
        open_checkpoint(path)


def test_shapes_that_contradict_the_metadata_are_named(make_model, write_gguf, tmp_path):
    model = make_model("llama")
    model.model.layers[1].mlp.up_proj.weight = torch.nn.Parameter(torch.zeros(64, model.config.hidden_size))
    checkpoint = open_checkpoint(write_gguf(model, tmp_path / "tiny.gguf"))
    with pytest.raises(MismatchError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(checkpoint, dtype=torch.float32)


def test_any_mutation_loads_or_is_refused(make_model, write_gguf, tmp_path):
    """Byte flips, cuts and inserted bytes anywhere in the header: nothing but a CheckpointError may come out."""
    good = write_gguf(make_model("llama"), tmp_path / "tiny.gguf", "Q8_0").read_bytes()
    header = good.index(b"blk.2.attn_norm") if b"blk.2.attn_norm" in good else 4096
    rng = np.random.default_rng(0)
    path = tmp_path / "mutant.gguf"
    refused = 0
    for _ in range(600):
        mutant = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(0, header))
            choice = rng.integers(0, 4)
            if choice == 0:
                mutant[at] = rng.integers(0, 256)
            elif choice == 1:
                mutant[at : at + 8] = rng.bytes(8)
            elif choice == 2:
                mutant[at : at + 8] = struct.pack("<Q", 2 ** int(rng.integers(0, 64)) - 1)
            else:
                del mutant[at : at + int(rng.integers(1, 64))]
        if rng.integers(0, 8) == 0:
            del mutant[int(rng.integers(0, len(mutant))) :]
        path.write_bytes(mutant)
        try:
            load_model(open_checkpoint(path), dtype=torch.float32)
        except CheckpointError:
            refused += 1
    assert refused > 300
