"""The multi-token prediction module equals transformers' own, which loads it apart from the main model."""

import pytest
import torch

from fathom.models import PRESETS
from fathom.models.cache import ContiguousCache, NoCache

CONFIG = PRESETS["tiny-v3"]


@pytest.fixture(scope="module")
def trio(make_pair):
    """transformers' main model, its MtpModel, and ours with the weights of both."""
    from transformers.modeling_layers import MtpModel

    theirs, ours = make_pair(CONFIG)
    module = MtpModel(theirs, 1).eval()
    torch.manual_seed(1)
    state = {}
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if name.startswith("layers.0."):
                tensor.copy_(torch.randn_like(tensor) * 0.08 + (1.0 if "norm" in name else 0.0))
    for name, tensor in module.state_dict().items():
        if name.startswith("layers.0."):
            published = name.removeprefix("layers.0.").removeprefix("mtp_block.")
            published = published.replace("post_norm.", "shared_head.norm.")
            if published.endswith("gate_up_proj"):
                gate, up = tensor.chunk(2, dim=1)
                state[published.replace("gate_up", "gate")], state[published.replace("gate_up", "up")] = gate, up
            else:
                state[published] = tensor
    ours.mtp[0].load_state_dict(state)
    return theirs, module, ours


@torch.no_grad()
def test_whole_sequence(trio):
    """Hidden states after the final norm go in; [embedding ; hidden] is projected; the norm of the shared head ends."""
    theirs, module, ours = trio
    tokens = torch.randint(0, 512, (1, 9))
    hidden = theirs.model(tokens[:, :-1]).last_hidden_state
    expected = module.forward_layer(0, hidden, torch.arange(1, 9)[None], None, input_ids=tokens[:, 1:])
    positions = torch.arange(8)
    cache = NoCache(1, 8)
    own = ours(tokens[0, :-1], positions, cache)
    predicted = ours.predict_further(0, own, tokens[0, 1:], positions, cache)
    torch.testing.assert_close(predicted, expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.logits(predicted), theirs.lm_head(expected[0]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_stepwise_over_its_own_cache_layer(trio):
    _, _, ours = trio
    tokens = torch.randint(0, 512, (9,))
    positions = torch.arange(8)
    whole = ours.predict_further(0, ours(tokens[:-1], positions, NoCache(1, 8)), tokens[1:], positions, NoCache(1, 8))
    cache = ContiguousCache(CONFIG, 1, 8)
    steps = []
    for start, end in ((0, 5), (5, 6), (6, 8)):
        at = cache.extend([end - start])
        hidden = ours(tokens[start:end], at, cache)
        steps.append(ours.predict_further(0, hidden, tokens[start + 1 : end + 1], at, cache))
    torch.testing.assert_close(torch.cat(steps), whole, atol=1e-5, rtol=1e-5)
    assert cache.entries_LBSC.shape[0] == CONFIG.num_hidden_layers + 1
    assert cache.entries_LBSC[CONFIG.num_hidden_layers].abs().sum() > 0


def test_gradients_reach_the_main_model_and_the_shared_embedding(trio):
    _, _, ours = trio
    ours.zero_grad()
    tokens, positions = torch.randint(0, 512, (9,)), torch.arange(8)
    hidden = ours(tokens[:-1], positions, NoCache(1, 8))
    predicted = ours.predict_further(0, hidden, tokens[1:], positions, NoCache(1, 8))
    torch.nn.functional.cross_entropy(ours.logits(predicted)[:-1], tokens[2:]).backward()
    for name in ("model.embed_tokens.weight", "model.layers.0.self_attn.o_proj.weight", "lm_head.weight"):
        assert ours.get_parameter(name).grad.abs().sum() > 0
    assert ours.mtp[0].eh_proj.weight.grad.abs().sum() > 0
    ours.zero_grad()


def test_names_are_the_published_ones(trio):
    """README_WEIGHTS: layer num_hidden_layers; the copies of embedding and head are not parameters here."""
    _, _, ours = trio
    names = {name.removeprefix("model.layers.3.") for name, _ in ours.named_parameters() if ".layers.3." in name}
    assert {"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight"} <= names
    assert not {"embed_tokens.weight", "shared_head.head.weight"} & names
