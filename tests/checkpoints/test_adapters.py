import json

import pytest
import torch

from fathom.checkpoints import save_model
from fathom.checkpoints.adapters import read_adapter, write_adapter
from fathom.checkpoints.errors import MalformedFileError, SourceError, UnsupportedTypeError
from fathom.models import ModelConfig
from fathom.models.cache import NoCache
from fathom.models.lora import Adapter, LowRankTraining, fresh
from fathom.models.transformer import Transformer

CONFIG = ModelConfig(
    architecture="llama",
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    initializer_range=0.1,
)


def made() -> tuple[Transformer, Adapter]:
    generator = torch.Generator().manual_seed(0)
    model = Transformer(CONFIG)
    model.initialise(generator)
    adapter = fresh(model, 4, 6, generator=generator)
    return model, Adapter(adapter.scale, {name: (a, torch.randn(b.shape)) for name, (a, b) in adapter.pairs.items()})


def test_round_trip_is_exact(tmp_path):
    _, adapter = made()
    write_adapter(tmp_path, adapter, base="ORG/NAME")
    stored = read_adapter(tmp_path)
    assert stored.base == "ORG/NAME"
    assert stored.adapter.scale == adapter.scale
    assert stored.adapter.pairs.keys() == adapter.pairs.keys()
    for name, pair in adapter.pairs.items():
        assert all(torch.equal(ours, read) for ours, read in zip(pair, stored.adapter.pairs[name], strict=True))


def test_the_mean_of_relatives_lies_between_them():
    _, first = made()
    second = Adapter(first.scale, {name: (a + 1, b - 2) for name, (a, b) in first.pairs.items()})
    for name, (a, b) in first.towards(second, 0.75).pairs.items():
        own_a, own_b = first.pairs[name]
        torch.testing.assert_close(a, own_a + 0.75)
        torch.testing.assert_close(b, own_b - 1.5)


def test_strangers_are_not_averaged():
    _, first = made()
    fewer = dict(list(first.pairs.items())[1:])
    wider = {name: (torch.cat([a, a]), torch.cat([b, b], 1)) for name, (a, b) in first.pairs.items()}
    for other in (Adapter(first.scale, fewer), Adapter(first.scale + 1, first.pairs), Adapter(first.scale, wider)):
        with pytest.raises(ValueError, match="differ"):
            first.towards(other, 0.5)


def test_peft_computes_the_same_and_what_peft_writes_is_read_back(tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    model, adapter = made()
    save_model(model, tmp_path / "base")
    write_adapter(tmp_path / "adapter", adapter, base=str(tmp_path / "base"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    tokens = torch.arange(12)
    with torch.no_grad(), LowRankTraining(model, adapter):
        ours = model.logits(model(tokens, tokens, NoCache(1, 12)))
        assert torch.allclose(theirs(tokens[None]).logits[0], ours, atol=1e-4)
    theirs.save_pretrained(tmp_path / "again")
    again = read_adapter(tmp_path / "again").adapter
    assert again.scale == adapter.scale
    assert all(torch.equal(again.pairs[name][1], b) for name, (_, b) in adapter.pairs.items())


def test_ranks_and_scales_of_single_layers_are_kept(tmp_path):
    _, adapter = made()
    name = next(iter(adapter.pairs))
    a, b = adapter.pairs[name]
    smaller = Adapter(adapter.scale, {**adapter.pairs, name: (a[:2].clone(), b[:, :2].clone())})
    write_adapter(tmp_path, smaller, base="")
    assert torch.equal(read_adapter(tmp_path).adapter.change(name), smaller.change(name))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["alpha_pattern"] = {"layers.0.self_attn.q_proj": 30}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    changed = read_adapter(tmp_path).adapter.change("model.layers.0.self_attn.q_proj")
    a, b = smaller.pairs["model.layers.0.self_attn.q_proj"]
    assert torch.allclose(changed, 30 / a.shape[0] * b @ a, atol=1e-4)


def test_what_is_not_plain_low_rank_is_refused(tmp_path):
    with pytest.raises(SourceError, match="holds no adapter"):
        read_adapter(tmp_path)
    _, adapter = made()
    write_adapter(tmp_path, adapter, base="")
    good = json.loads((tmp_path / "adapter_config.json").read_text())
    for key, value in (("use_dora", True), ("bias", "all"), ("modules_to_save", ["lm_head"]), ("peft_type", "IA3")):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**good, key: value}))
        with pytest.raises(UnsupportedTypeError, match=key):
            read_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(MalformedFileError):
        read_adapter(tmp_path)
