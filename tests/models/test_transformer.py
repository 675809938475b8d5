"""The model as an object: meta device, dtypes, initialisation, what the gates report; and the caches' own rules."""

import pytest
import torch

from fathom.models import PRESETS
from fathom.models.cache import ContiguousCache, NoCache
from fathom.models.transformer import Transformer

TINY = ["tiny-llama", "tiny-qwen2", "tiny-v2", "tiny-v3"]


@pytest.mark.parametrize("name", TINY)
def test_built_on_meta_and_assigned(name, whole_logits):
    """No buffer is left behind on meta: the assigned model computes what the first one did."""
    real = Transformer(PRESETS[name])
    with torch.device("meta"):
        hollow = Transformer(PRESETS[name])
    hollow.load_state_dict(real.state_dict(), assign=True)
    tokens = torch.randint(0, 512, (2, 5))
    assert torch.equal(whole_logits(hollow, tokens), whole_logits(real, tokens))


@pytest.mark.parametrize("name", ["v2", "v3", "r1-distill-llama-70b"])
def test_the_largest_models_cost_nothing_on_meta(name):
    with torch.device("meta"):
        model = Transformer(PRESETS[name])
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


@torch.no_grad()
@pytest.mark.parametrize("name", TINY)
def test_bfloat16_stays_near_float32(name, whole_logits):
    model = Transformer(PRESETS[name])
    tokens = torch.randint(0, 512, (2, 9))
    exact = whole_logits(model, tokens)
    rounded = whole_logits(model.to(torch.bfloat16), tokens)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() / exact.norm() < 0.05


def test_correction_bias_stays_float32_exactly():
    model = Transformer(PRESETS["tiny-v3"])
    gate = model.model.layers[1].mlp.gate
    gate.e_score_correction_bias.fill_(1.001)
    kept = gate.e_score_correction_bias.clone()
    model.to(torch.bfloat16)
    assert gate.weight.dtype == torch.bfloat16
    assert torch.equal(gate.e_score_correction_bias, kept)


@torch.no_grad()
def test_gate_computes_in_float32():
    gate = Transformer(PRESETS["tiny-v3"]).model.layers[1].mlp.gate.to(torch.bfloat16)
    x = torch.randn(50, 64, dtype=torch.bfloat16)
    expected = (x.double() @ gate.weight.double().T).sigmoid()
    torch.testing.assert_close(gate(x).scores_NE.double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_initialisation(name):
    model = Transformer(PRESETS[name])
    model.initialise(torch.Generator().manual_seed(7))
    first = {key: value.clone() for key, value in model.state_dict().items()}
    model.initialise(torch.Generator().manual_seed(7))
    for key, value in model.state_dict().items():
        assert torch.equal(value, first[key])
        if value.numel() > 4000:
            assert value.std().item() == pytest.approx(0.02, rel=0.1)
            assert abs(value.mean().item()) < 0.002
        elif "norm" in key:
            assert (value == 1).all()
        elif "bias" in key:
            assert (value == 0).all()


@pytest.mark.parametrize(("name", "total"), [("tiny-v2", None), ("tiny-v3", 2.5)])
def test_record_tells_what_every_gate_decided(name, total):
    model = Transformer(PRESETS[name])
    seen = {}
    hidden = model(torch.arange(7), torch.arange(7), NoCache(1, 7), record=seen.__setitem__)
    assert list(seen) == [1, 2]
    for routing in seen.values():
        assert routing.scores_NE.shape == (7, 16)
        assert routing.selected_NK.shape == routing.weights_NK.shape == (7, 4)
        if total is not None:
            torch.testing.assert_close(routing.weights_NK.sum(-1), torch.full((7,), total))
        groups = routing.selected_NK // 4
        assert all(len(set(row.tolist())) <= 2 for row in groups)
        assert all(len(set(row.tolist())) == 4 for row in routing.selected_NK)
    balance = sum(routing.scores_NE.mean(0).square().sum() for routing in seen.values())
    (gradient,) = torch.autograd.grad(balance, model.model.layers[2].mlp.gate.weight)
    assert gradient.abs().sum() > 0
    assert torch.equal(hidden, model(torch.arange(7), torch.arange(7), NoCache(1, 7)))


def test_prediction_modules_are_recorded_too():
    model = Transformer(PRESETS["tiny-v3"])
    seen = []
    hidden, positions = torch.randn(4, 64), torch.arange(4)
    model.predict_further(0, hidden, positions, positions, NoCache(1, 4), record=lambda layer, _: seen.append(layer))
    assert seen == [3]


def test_every_parameter_gets_a_gradient():
    """All experts of a mixture that some token chose, all norms, both embeddings."""
    torch.manual_seed(0)
    model = Transformer(PRESETS["tiny-v3"])
    tokens, positions = torch.randint(0, 512, (64,)), torch.arange(64)
    cache = NoCache(1, 64)
    hidden = model(tokens, positions, cache)
    further = model.predict_further(0, hidden, tokens.roll(-1), positions, cache)
    (model.logits(hidden).square().mean() + model.logits(further).square().mean()).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


class TestContiguousCache:
    def test_groups_cover_all_rows_in_order(self):
        cache = ContiguousCache(PRESETS["tiny-llama"], 5, 8)
        positions = cache.extend([2, 2, 0, 3, 1])
        assert [(g.rows.start, g.rows.stop, g.batch, g.new, g.context) for g in cache.groups] == [
            (0, 4, 2, 2, 2),
            (4, 7, 1, 3, 3),
            (7, 8, 1, 1, 1),
        ]
        assert positions.tolist() == [0, 1, 0, 1, 0, 1, 2, 0]
        assert cache.extend([1, 1, 1, 0, 0]).tolist() == [2, 2, 0]
        assert [(g.batch, g.new, g.context) for g in cache.groups] == [(3, 1, 3)]
        assert cache.groups[0].mask_BTS.tolist() == [[[True] * 3], [[True] * 3], [[True, False, False]]]

    def test_too_many_tokens(self):
        cache = ContiguousCache(PRESETS["tiny-llama"], 1, 4)
        with pytest.raises(ValueError, match="holds 4 tokens"):
            cache.extend([5])

    def test_wrong_number_of_sequences(self):
        with pytest.raises(ValueError, match="each of the 2 sequences"):
            ContiguousCache(PRESETS["tiny-llama"], 2, 4).extend([1])

    @torch.no_grad()
    def test_a_forgotten_draft_leaves_no_trace(self):
        model = Transformer(PRESETS["tiny-v3"])
        tokens = torch.randint(0, 512, (6,))
        cache = ContiguousCache(model.config, 1, 8)
        model(tokens[:4], cache.extend([4]), cache)
        model(torch.tensor([9, 9, 9]), cache.extend([3]), cache)
        cache.truncate([4])
        after = model(tokens[4:], cache.extend([2]), cache)
        torch.testing.assert_close(after, model(tokens, torch.arange(6), NoCache(1, 6))[4:], atol=1e-5, rtol=1e-5)

    def test_cannot_remember_what_was_never_there(self):
        with pytest.raises(ValueError, match="cannot keep"):
            ContiguousCache(PRESETS["tiny-llama"], 1, 4).truncate([1])


def test_no_cache_refuses_an_old_layer():
    cache = NoCache(1, 2)
    cache.update(0, torch.zeros(2, 4))
    with pytest.raises(RuntimeError, match="layer 1"):
        cache.read(1, cache.groups[0])
