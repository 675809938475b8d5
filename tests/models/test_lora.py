import pytest
import torch

from fathom.models import ModelConfig
from fathom.models.cache import NoCache
from fathom.models.lora import Adapter, LowRankTraining, fresh, merge
from fathom.models.transformer import Transformer

LLAMA = ModelConfig(
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


def model_of(config: ModelConfig = LLAMA) -> Transformer:
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(0))
    return model


def drawn(model: Transformer) -> Adapter:
    generator = torch.Generator().manual_seed(1)
    adapter = fresh(model, 4, 8, generator=generator)
    return Adapter(
        adapter.scale,
        {name: (a, torch.randn(b.shape, generator=generator) * 0.1) for name, (a, b) in adapter.pairs.items()},
    )


def logits(model: Transformer) -> torch.Tensor:
    tokens = torch.arange(20) % 60
    return model.logits(model(tokens, torch.arange(10).repeat(2), NoCache(2, 10)))


def test_a_fresh_adapter_changes_nothing_and_covers_every_linear_layer():
    model = model_of()
    before = logits(model)
    with LowRankTraining(model, fresh(model, 4, 8)) as training:
        torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)
        assert len(training.parameters) == 2 * 7 * 2


def test_the_low_rank_path_equals_merged_weights_and_detaches():
    model, twin = model_of(), model_of()
    adapter = drawn(model)
    merge(twin, adapter)
    before = logits(model)
    with LowRankTraining(model, adapter):
        assert torch.allclose(logits(model), logits(twin), atol=1e-5)
        assert not torch.allclose(logits(model), before, atol=1e-3)
    assert torch.allclose(logits(model), before, atol=1e-5)


def test_gradients_reach_the_pairs_alone_and_equal_those_of_merged_weights():
    model, twin = model_of(), model_of()
    adapter = drawn(model)
    training = LowRankTraining(model, adapter)
    logits(model).logsumexp(-1).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    merge(twin, adapter)
    logits(twin).logsumexp(-1).sum().backward()
    for name, (a, b) in adapter.pairs.items():
        whole = twin.get_submodule(name).weight.grad
        assert torch.allclose(training.parameters[f"{name}.A"].grad, adapter.scale * b.T @ whole, atol=1e-4)
        assert torch.allclose(training.parameters[f"{name}.B"].grad, adapter.scale * whole @ a.T, atol=1e-4)


def test_what_does_not_fit_is_refused_by_name():
    model = model_of()
    with pytest.raises(ValueError, match="lm_head cannot have"):
        fresh(model, 4, 8, targets=["lm_head"])
    with pytest.raises(ValueError, match=r"layers\.9"):
        LowRankTraining(model, Adapter(1.0, {"model.layers.9.mlp.up_proj": (torch.zeros(2, 32), torch.zeros(48, 2))}))
    with pytest.raises(ValueError, match="goes from 32 to 48"):
        LowRankTraining(model, Adapter(1.0, {"model.layers.0.mlp.up_proj": (torch.zeros(2, 31), torch.zeros(48, 2))}))
