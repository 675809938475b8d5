"""Files that Fathom writes: the same logits through its own reader, the same bytes as the gguf package's quantisers."""

from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch

from fathom.checkpoints import save_model
from fathom.checkpoints.errors import CheckpointError, UnsupportedTypeError
from fathom.checkpoints.gguf_export import export_gguf
from fathom.checkpoints.gguf_quantise import encode
from fathom.checkpoints.loading import load_model
from fathom.checkpoints.opening import open_checkpoint
from fathom.models import RopeScaling
from fathom.text import Message, Tokenizer, chat_template
from fathom.text.training import save_tokenizer, train_tokenizer

YARN = RopeScaling("yarn", 40.0, original_max_position_embeddings=64, mscale=1.0, mscale_all_dim=1.0)
LLAMA3 = RopeScaling("llama3", 8.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0)
MODELS = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-3.1": ("llama", {"rope_scaling": LLAMA3, "head_dim": 16}),
    "qwen2": ("qwen2", {}),
    "v2": ("v2", {}),
    "v2-no-query-rank": ("v2", {"q_lora_rank": None}),
    "v3": ("v3", {}),
    "v3-yarn": ("v3", {"rope_scaling": YARN}),
}
VOCABULARY = 320


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = ["A sentence about ships, and another one about 1,234 sailors who sail the seven seas.\n"] * 9
    save_tokenizer(train_tokenizer(texts, VOCABULARY), folder)
    return folder


@pytest.fixture
def saved(make_model, tokenizer_folder, tmp_path):
    """A Hugging Face folder with a model and a tokenizer: saved("v3", ...) -> (model, folder)."""

    def save(name, **changes):
        model = make_model(name, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=1, **changes)
        folder = tmp_path / name
        save_model(model, folder, max_shard_bytes=1 << 30)
        for file in tokenizer_folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return model, folder

    return save


@pytest.mark.parametrize("case", MODELS)
def test_the_file_gives_the_logits_of_the_folder(case, saved, logits_of, tmp_path):
    name, changes = MODELS[case]
    model, folder = saved(name, **changes)
    told = []
    file = export_gguf(folder, tmp_path / "out.gguf", dtype="f32", report=told.append)
    assert bool(told) == (model.config.num_nextn_predict_layers > 0)
    checkpoint = open_checkpoint(file)
    loaded = load_model(checkpoint, dtype=torch.float32)
    torch.testing.assert_close(logits_of(loaded), logits_of(model), atol=0, rtol=0)
    unstated = {"torch_dtype": "float32", "initializer_range": 0.0, "aux_loss_alpha": 0.0, "pad_token_id": None}
    unstated["num_nextn_predict_layers"] = 0
    assert replace(checkpoint.config, **unstated) == replace(model.config, **unstated)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0", "q4_0"])
def test_the_gguf_package_reads_what_we_quantise(dtype, saved, tmp_path):
    model, folder = saved("v3", hidden_size=64, moe_intermediate_size=32)
    file = export_gguf(folder, tmp_path / "out.gguf", dtype=dtype, report=lambda _: None)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    kind = gguf.GGMLQuantizationType[dtype.upper()]
    gate = model.state_dict()["model.layers.1.mlp.experts.gate_proj"].numpy()
    assert tensors["blk.1.ffn_gate_exps.weight"].tensor_type == kind
    np.testing.assert_array_equal(tensors["blk.1.ffn_gate_exps.weight"].data, gguf.quantize(gate, kind))
    for name in ("blk.1.ffn_gate_inp.weight", "blk.1.exp_probs_b.bias", "output_norm.weight"):
        assert tensors[name].tensor_type == gguf.GGMLQuantizationType.F32


@pytest.mark.parametrize("type_name", ["Q8_0", "Q4_0"])
def test_quantisers_are_llama_cpps_to_the_bit(type_name):
    values = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    values[3, :32] = 0
    values[4, :32] = torch.linspace(-1, 1, 32)
    expected = gguf.quantize(values.numpy(), gguf.GGMLQuantizationType[type_name])
    np.testing.assert_array_equal(encode(type_name, values), expected.reshape(-1))


def test_the_tokenizer_and_the_chat_template_are_in_the_file(saved, tmp_path):
    _, folder = saved("v3")
    file = export_gguf(folder, tmp_path, dtype="bf16", name="Small ship", licence="mit", report=lambda _: None)
    assert file.name == "Small ship-BF16.gguf"
    checkpoint = open_checkpoint(file)
    assert (checkpoint.name, checkpoint.licence) == ("Small ship", "mit")
    ours, theirs = Tokenizer.from_gguf(checkpoint.metadata), Tokenizer.from_folder(folder)
    text = "Ships and 1234 sailors!\n\n<｜User｜> 中文"
    assert ours.encode(text) == theirs.encode(text)
    assert (ours.bos_id, ours.eos_id, ours.add_bos, ours.vocab_size) == (0, 1, theirs.add_bos, VOCABULARY)
    messages = [Message("user", "Ahoy?")]
    for thinking in (False, True):
        prompts = [chat_template(one).render(messages, thinking=thinking).ids for one in (ours, theirs)]
        assert prompts[0] == prompts[1]


def test_a_file_written_from_a_file_keeps_the_tokenizer(saved, tmp_path):
    _, folder = saved("v3")
    first = export_gguf(folder, tmp_path / "a.gguf", dtype="f32", report=lambda _: None)
    second = export_gguf(first, tmp_path / "b.gguf", dtype="f32", report=lambda _: None)
    one, two = open_checkpoint(first), open_checkpoint(second)
    assert one.metadata == two.metadata
    assert all(torch.equal(one.tensor(name), two.tensor(name)) for name in one.names())


def test_what_cannot_be_written_is_refused(saved, tmp_path):
    _, folder = saved("v2", rope_scaling=replace(YARN, mscale=0.5))
    with pytest.raises(UnsupportedTypeError, match="mscale"):
        export_gguf(folder, tmp_path / "out.gguf")
    _, folder = saved("llama")
    (tmp_path / "there.gguf").touch()
    with pytest.raises(CheckpointError, match="exists already"):
        export_gguf(folder, tmp_path / "there.gguf")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        export_gguf(folder, tmp_path / "other.gguf")
