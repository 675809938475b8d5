"""Naive and absorbed latent attention are one function: values, gradients, padding; and when each is chosen."""

import pytest
import torch

from fathom.models import PRESETS
from fathom.models.attention import LatentAttention
from fathom.models.cache import ContiguousCache, NoCache
from fathom.models.transformer import Transformer


def model_of(name, form="auto"):
    torch.manual_seed(0)
    model = Transformer(PRESETS[name])
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    for module in model.modules():
        if isinstance(module, LatentAttention):
            module.form = form
    return model


def both(name):
    return model_of(name, "naive"), model_of(name, "absorbed")


@torch.no_grad()
@pytest.mark.parametrize("name", ["tiny-v2", "tiny-v3"])
def test_forms_agree_step_by_step_and_for_ragged_batches(name):
    tokens = torch.randint(0, 512, (14,))
    hidden = []
    for model in both(name):
        cache = ContiguousCache(model.config, 3, 16)
        parts = [model(tokens[:9], cache.extend([4, 4, 1]), cache)]
        parts += [model(tokens[9:14], cache.extend([1, 1, 3]), cache)]
        hidden.append(torch.cat(parts))
    torch.testing.assert_close(*hidden, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["tiny-v2", "tiny-v3"])
def test_gradients_agree(name):
    tokens, positions = torch.randint(0, 512, (12,)), torch.arange(6).repeat(2)
    gradients = []
    for model in both(name):
        hidden = model(tokens, positions, NoCache(2, 6))
        torch.nn.functional.cross_entropy(model.logits(hidden)[:-1], tokens[1:]).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert {"kv_b_proj", "q_a_proj", "kv_a_proj_with_mqa"} <= {name.split(".")[-2] for name in gradients[0]}
    for key in gradients[0]:
        torch.testing.assert_close(gradients[0][key], gradients[1][key], atol=1e-6, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("form", ["naive", "absorbed"])
@pytest.mark.parametrize("name", ["tiny-v3", "tiny-llama"])
def test_padding_neither_leaks_nor_makes_nan(name, form):
    """Left-padded rows see nothing at all; the real ones give what they give alone."""
    model = model_of(name, form)
    tokens = torch.randint(0, 512, (2, 6))
    real = torch.tensor([[False, False, True, True, True, True], [True] * 6])
    mask = torch.ones(6, 6, dtype=torch.bool).tril() & real[:, None, :] & real[:, :, None]
    positions = torch.stack((torch.tensor([0, 0, 0, 1, 2, 3]), torch.arange(6)))
    padded = model(tokens.flatten(), positions.flatten(), NoCache(2, 6, mask)).view(2, 6, -1)
    assert padded.isfinite().all()
    alone = model(tokens[0, 2:], torch.arange(4), NoCache(1, 4))
    torch.testing.assert_close(padded[0, 2:], alone, atol=1e-5, rtol=1e-5)


def test_the_choice_at_v3s_sizes():
    """Break-even at T = S / (1 + S/171): decoding absorbed, a fresh prompt naive, short chunks over long contexts."""
    with torch.device("meta"):
        prefers = LatentAttention(PRESETS["v3"], 0).prefers_absorbed
    assert prefers(1, 2)
    assert prefers(2, 4096)
    assert not any(prefers(length, length) for length in (1, 2, 512, 4096))
    assert prefers(160, 4096)
    assert not prefers(170, 4096)
    assert prefers(170, 10**6)
    assert not prefers(171, 10**6)


@torch.no_grad()
def test_the_choice_is_taken(monkeypatch):
    taken = []
    for form in ("_naive", "_absorbed"):
        original = getattr(LatentAttention, form)
        monkeypatch.setattr(
            LatentAttention, form, lambda self, *a, f=form, o=original: taken.append((self.layer, f)) or o(self, *a)
        )
    model = model_of("tiny-v3")
    cache = ContiguousCache(model.config, 1, 8)
    model(torch.arange(5), cache.extend([5]), cache)
    assert taken == [(layer, "_naive") for layer in range(3)]
    taken.clear()
    model(torch.arange(1), cache.extend([1]), cache)
    assert taken == [(layer, "_absorbed") for layer in range(3)]
