"""Safetensors: the reference library and transformers read what we write, we read what they write, files may lie."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fathom.checkpoints.checkpoint import check_finite
from fathom.checkpoints.dtypes import DTYPES
from fathom.checkpoints.errors import (
    CheckpointError,
    InvalidConfigError,
    MalformedFileError,
    MismatchError,
    NonFiniteError,
    PickleRefusedError,
    SourceError,
    UnsafePathError,
    UnsupportedTypeError,
)
from fathom.checkpoints.loading import load_model
from fathom.checkpoints.opening import open_checkpoint
from fathom.checkpoints.safetensors_format import SafetensorsFile, header_bytes, write_safetensors
from fathom.checkpoints.saving import plan_shards, published_tensors, save_model

NAMES = ("llama", "qwen2", "v2", "v3")


@pytest.fixture(params=NAMES)
def model(request, make_model):
    return make_model(request.param)


@pytest.fixture
def llama_folder(make_model, tmp_path):
    save_model(make_model("llama"), tmp_path / "llama")
    return tmp_path / "llama"


def edit(folder, change):
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


# Round trips.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 60_000])
def test_every_tensor_comes_back(model, dtype, max_shard_bytes, tmp_path):
    model = model.to(dtype)
    save_model(model, tmp_path / "saved", max_shard_bytes=max_shard_bytes)
    loaded = load_model(open_checkpoint(tmp_path / "saved"), dtype=dtype)
    assert loaded.config == replace(model.config, torch_dtype=str(dtype).removeprefix("torch."))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
        assert loaded.state_dict()[name].dtype == tensor.dtype


def test_the_reference_library_reads_what_we_write(model, tmp_path):
    save_model(model, tmp_path / "saved", max_shard_bytes=100_000)
    index = json.loads((tmp_path / "saved" / "model.safetensors.index.json").read_text())
    expected = published_tensors(model)
    assert index["weight_map"].keys() == expected.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in expected.values())
    for file in set(index["weight_map"].values()):
        for name, tensor in load_file(tmp_path / "saved" / file).items():
            assert index["weight_map"][name] == file
            assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}])
def test_transformers_loads_what_we_save(changes, model, make_model, logits_of, tmp_path):
    from transformers import AutoModelForCausalLM

    model = make_model(model.config.architecture.replace("deepseek_", ""), **changes)
    save_model(model, tmp_path / "saved", max_shard_bytes=100_000)
    theirs, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    tokens = (torch.arange(24) * 37) % model.config.vocab_size
    with torch.no_grad():
        torch.testing.assert_close(logits_of(model), theirs(tokens[None]).logits[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}])
def test_we_load_what_transformers_saves(changes, model, make_model, logits_of, tmp_path):
    from transformers import AutoModelForCausalLM

    model = make_model(model.config.architecture.replace("deepseek_", ""), **changes)
    save_model(model, tmp_path / "ours")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="100KB")
    loaded = load_model(open_checkpoint(tmp_path / "theirs"), dtype=torch.float32)
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_prediction_modules_survive_with_the_copies_other_engines_expect(make_model, tmp_path):
    model = make_model("v3")
    save_model(model, tmp_path / "saved")
    tensors = load_file(tmp_path / "saved" / "model.safetensors")
    layer = f"model.layers.{model.config.num_hidden_layers}"
    assert torch.equal(tensors[f"{layer}.embed_tokens.weight"], tensors["model.embed_tokens.weight"])
    assert torch.equal(tensors[f"{layer}.shared_head.head.weight"], tensors["lm_head.weight"])
    assert len(load_model(open_checkpoint(tmp_path / "saved"), dtype=torch.float32).mtp) == 1


def test_a_checkpoint_without_its_prediction_module_loads_with_a_warning(make_model, logits_of, tmp_path, caplog):
    model = make_model("v3")
    save_model(model, tmp_path / "saved")
    prefix = f"model.layers.{model.config.num_hidden_layers}."
    edit(tmp_path / "saved", lambda t: [t.pop(name) for name in list(t) if name.startswith(prefix)])
    loaded = load_model(open_checkpoint(tmp_path / "saved"), dtype=torch.float32)
    assert len(loaded.mtp) == 0
    assert "multi-token prediction" in caplog.text
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_tensors_of_the_stored_dtype_are_views_of_the_file(llama_folder):
    checkpoint = open_checkpoint(llama_folder)
    model = load_model(checkpoint, dtype=torch.float32)
    assert model.lm_head.weight.data_ptr() == checkpoint.tensor("lm_head.weight").data_ptr()
    before = (llama_folder / "model.safetensors").read_bytes()
    model.lm_head.weight.zero_()
    assert (llama_folder / "model.safetensors").read_bytes() == before


def test_the_routers_bias_stays_float32(make_model, tmp_path):
    save_model(make_model("v3"), tmp_path / "saved")
    loaded = load_model(open_checkpoint(tmp_path / "saved"), dtype=torch.bfloat16)
    assert loaded.model.layers[1].mlp.gate.e_score_correction_bias.dtype == torch.float32
    assert loaded.model.layers[1].mlp.gate.weight.dtype == torch.bfloat16


def test_a_folder_with_a_model_is_not_overwritten(llama_folder, make_model):
    with pytest.raises(CheckpointError, match="already holds a model"):
        save_model(make_model("llama"), llama_folder)


def test_every_dtype_round_trips_through_both_libraries(tmp_path):
    tensors = {
        name: torch.arange(6).to(torch.float32).to(dtype).view(2, 3)
        for name, dtype in DTYPES.items()
        if name != "F8_E8M0"
    }
    tensors["empty"] = torch.empty(0, 4)
    tensors["scalar"] = torch.tensor(3.5)
    save_file(tensors, tmp_path / "theirs.safetensors")
    theirs = SafetensorsFile(tmp_path / "theirs.safetensors")
    kinds = {dtype: name for name, dtype in DTYPES.items()}
    layout = {name: (kinds[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_safetensors(tmp_path / "ours.safetensors", layout, iter(tensors.values()))
    ours = load_file(tmp_path / "ours.safetensors")
    for name, tensor in tensors.items():
        for found in (theirs.tensor(name), ours[name]):
            assert found.dtype == tensor.dtype
            assert torch.equal(found.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=30), most=st.integers(1, 200))
def test_shards_hold_everything_once_and_stay_small(sizes, most):
    layout = {f"t{i}": ("U8", (size,)) for i, size in enumerate(sizes)}
    shards = plan_shards(layout, most)
    assert {name: entry for part in shards.values() for name, entry in part.items()} == layout
    assert sum(len(part) for part in shards.values()) == len(layout)
    for part in shards.values():
        size = sum(shape[0] for _, shape in part.values())
        assert size <= most or sum(shape[0] > 0 for _, shape in part.values()) == 1


# What does not fit together.


def test_missing_unused_and_misshapen_tensors_are_named(llama_folder):
    def change(tensors):
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.layers.0.extra.weight"] = torch.zeros(3)
        tensors["model.norm.weight"] = torch.zeros(3)

    edit(llama_folder, change)
    with pytest.raises(MismatchError) as caught:
        load_model(open_checkpoint(llama_folder), dtype=torch.float32)
    for part in ("missing: model.layers.1.mlp.up_proj", "unused: model.layers.0.extra", "model.norm.weight (is [3]"):
        assert part in str(caught.value)


def test_tables_and_true_copies_are_ignored_others_are_not(make_model, tmp_path):
    save_model(make_model("qwen2", tie_word_embeddings=True), tmp_path / "saved")

    def change(tensors):
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    edit(tmp_path / "saved", change)
    load_model(open_checkpoint(tmp_path / "saved"), dtype=torch.float32)
    edit(tmp_path / "saved", lambda tensors: tensors["lm_head.weight"].add_(1))
    with pytest.raises(MismatchError, match="tie_word_embeddings"):
        load_model(open_checkpoint(tmp_path / "saved"), dtype=torch.float32)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_numbers_are_found_on_request(value, llama_folder):
    check_finite(open_checkpoint(llama_folder))
    edit(llama_folder, lambda tensors: tensors["model.norm.weight"].fill_(value))
    open_checkpoint(llama_folder)
    with pytest.raises(NonFiniteError, match=r"model\.norm\.weight"):
        open_checkpoint(llama_folder, check=True)


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", "x.bin", "", ".safetensors"],
)
def test_an_index_cannot_lead_out_of_its_folder(name, llama_folder):
    (llama_folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    with pytest.raises(UnsafePathError):
        open_checkpoint(llama_folder)


@pytest.mark.parametrize(
    ("index", "error"),
    [
        ("[]", MalformedFileError),
        ("{", MalformedFileError),
        ('{"weight_map": 3}', MalformedFileError),
        ('{"weight_map": {"a": 3}}', MalformedFileError),
        ("[" * 100_000, MalformedFileError),
        ('{"weight_map": {"ghost": "model.safetensors"}}', MismatchError),
        ('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}', SourceError),
    ],
)
def test_a_wrong_index_is_refused(index, error, llama_folder):
    (llama_folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(error):
        open_checkpoint(llama_folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"architectures": ["Evil"]}', '{"model_type": "llama"}', "\xff"])
def test_a_wrong_config_is_refused(text, llama_folder):
    (llama_folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises((InvalidConfigError, MalformedFileError)):
        open_checkpoint(llama_folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt"])
def test_pickles_are_refused_by_name_with_the_alternative(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x80\x04boom")
    (tmp_path / "config.json").write_text("{}")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(PickleRefusedError, match=f"(?s){name}.*safetensors"):
            open_checkpoint(path)


def test_paths_that_hold_no_model(tmp_path):
    (tmp_path / "x.txt").write_text("hello")
    (tmp_path / "a.safetensors").mkdir()
    for path in (tmp_path / "nothing", tmp_path / "x.txt", tmp_path):
        with pytest.raises(CheckpointError):
            open_checkpoint(path)


# Headers that lie.


def file_of(header, data=b"\0" * 16):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(start=0, stop=16, shape=(4,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


LIES = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "huge header": (2**63).to_bytes(8, "little") + b"{}",
    "header over the limit": (100_000_001).to_bytes(8, "little") + b"{}",
    "header beyond the end": (100).to_bytes(8, "little") + b"{}",
    "not an object": file_of([]),
    "not JSON": file_of(b"{nope"),
    "not UTF-8": file_of(b'{"\xff": 1}'),
    "leading space": file_of(b" {}", b""),
    "deep": file_of(b'{"a":' * 50_000),
    "duplicate keys": file_of(b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}"),
    "entry not an object": file_of({"a": 3}),
    "entry without shape": file_of({"a": {"dtype": "F32", "data_offsets": [0, 16]}}),
    "entry with more": file_of({"a": entry() | {"x": 1}}),
    "dtype a number": file_of({"a": entry(dtype=3)}),
    "negative size": file_of({"a": entry(shape=(-4,))}),
    "two negative sizes": file_of({"a": entry(shape=(-2, -2))}),
    "true as a size": file_of({"a": entry(0, 4, (True,))}),
    "float as a size": file_of({"a": entry(shape=(4.0,))}),
    "overflowing sizes": file_of({"a": entry(shape=(2**32, 2**32, 4))}),
    "astronomical size": file_of({"a": entry(shape=(10**400,))}),
    "many dimensions": file_of({"a": entry(0, 4, (1,) * 1000)}),
    "offsets swapped": file_of({"a": entry(16, 0)}),
    "negative offset": file_of({"a": entry(-16, 0)}),
    "one offset": file_of({"a": entry() | {"data_offsets": [0]}}),
    "size contradicts shape": file_of({"a": entry(shape=(3,))}),
    "beyond the end": file_of({"a": entry(0, 32, (8,))}),
    "far beyond the end": file_of({"a": entry(2**60, 2**60 + 16)}),
    "overlap": file_of({"a": entry(0, 8, (2,)), "b": entry(4, 12, (2,)), "c": entry(12, 16, (1,))}),
    "same bytes twice": file_of({"a": entry(), "b": entry()}),
    "hole": file_of({"a": entry(0, 4, (1,)), "b": entry(8, 16, (2,))}),
    "hole at the start": file_of({"a": entry(4, 16, (3,))}),
    "bytes left over": file_of({"a": entry(0, 8, (2,))}),
    "metadata of numbers": file_of({"__metadata__": {"a": 1}, "a": entry()}),
    "metadata a list": file_of({"__metadata__": [], "a": entry()}),
    "a number of 5000 digits": file_of(b'{"a": ' + b"9" * 5000 + b"}"),
    "NaN": file_of(b'{"a": {"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}'),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_header_is_refused(lie, tmp_path):
    path = tmp_path / "lie.safetensors"
    path.write_bytes(LIES[lie])
    with pytest.raises(MalformedFileError):
        SafetensorsFile(path)


def test_an_honest_header_built_the_same_way_is_read(tmp_path):
    path = tmp_path / "good.safetensors"
    path.write_bytes(file_of({"__metadata__": {"a": "b"}, "b": entry(8, 16, (2,)), "a": entry(0, 8, (1, 2, 1))}))
    file = SafetensorsFile(path)
    assert file.metadata == {"a": "b"}
    assert file.tensor("a").shape == (1, 2, 1)


def test_an_unknown_dtype_is_named(tmp_path):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(file_of({"a": entry(dtype="F4")}))
    with pytest.raises(UnsupportedTypeError, match="F4"):
        SafetensorsFile(path)


@settings(max_examples=300, deadline=None)
@given(
    header=st.dictionaries(
        st.text(max_size=5),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from([*DTYPES, "F4"]),
                "shape": st.lists(st.integers(-1, 5), max_size=3),
                "data_offsets": st.lists(st.integers(-1, 40), min_size=2, max_size=2),
            }
        ),
        max_size=3,
    ),
    size=st.integers(0, 40),
)
def test_any_header_loads_or_is_refused(header, size, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(file_of(header, b"\0" * size))
    try:
        file = SafetensorsFile(path)
    except CheckpointError:
        return
    for name, item in file.entries.items():
        assert file.tensor(name).shape == item.shape
    assert sum(item.stop - item.start for item in file.entries.values()) == size


def test_any_mutation_loads_or_is_refused(llama_folder):
    path = llama_folder / "model.safetensors"
    good = path.read_bytes()
    header = int.from_bytes(good[:8], "little") + 8
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        mutant = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(0, header))
            if rng.integers(0, 2):
                mutant[at] = rng.integers(0, 256)
            else:
                del mutant[at : at + int(rng.integers(1, 16))]
        if rng.integers(0, 8) == 0:
            del mutant[int(rng.integers(0, len(mutant))) :]
        path.unlink()  # a new file: the old one is still mapped
        path.write_bytes(mutant)
        try:
            load_model(open_checkpoint(llama_folder), dtype=torch.float32)
        except CheckpointError:
            refused += 1
    assert refused > 250


def test_header_bytes_align_the_data():
    for length in range(1, 20):
        assert len(header_bytes({"n" * length: ("F32", (1,))}, {})) % 8 == 0
