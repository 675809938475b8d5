"""Tiny random models of transformers, and the same weights in ours."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fathom.models import ModelConfig
from fathom.models.cache import NoCache
from fathom.models.transformer import Transformer

Pair = tuple[Any, Transformer]


def _stacked(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers 5 keeps gate and up in one stacked tensor; ours are two."""
    result = {}
    for name, tensor in state.items():
        if name.endswith("experts.gate_up_proj"):
            result[name.replace("gate_up", "gate")], result[name.replace("gate_up", "up")] = tensor.chunk(2, dim=1)
        else:
            result[name] = tensor
    return result


@pytest.fixture(scope="session")
def make_pair() -> Callable[..., Pair]:
    """Return (transformers model, our model) with equal random weights for a ModelConfig."""
    from transformers import AutoConfig, AutoModelForCausalLM

    def make(config: ModelConfig, **hf_only: Any) -> Pair:
        published = {key: value for key, value in config.to_hf().items() if key != "torch_dtype"} | hf_only
        torch.manual_seed(0)
        theirs = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(published.pop("model_type"), **published), attn_implementation="eager"
        )
        theirs = theirs.float().eval()
        with torch.no_grad():
            for name, tensor in [*theirs.named_parameters(), *theirs.named_buffers()]:
                if re.search(r"norm\.weight|bias", name):
                    tensor.add_(torch.randn_like(tensor) * 0.1)
                elif "inv_freq" not in name:
                    tensor.copy_(torch.randn_like(tensor) * 0.08)
        ours = Transformer(config).eval()
        state = _stacked(theirs.state_dict())
        if config.tie_word_embeddings:
            del state["lm_head.weight"]
        missing, unexpected = ours.load_state_dict(state, strict=False)
        assert not unexpected
        assert all(re.match(rf"model\.layers\.{config.num_hidden_layers}\.", name) for name in missing)
        return theirs, ours

    return make


@pytest.fixture(scope="session")
def whole_logits() -> Callable[[Transformer, Tensor], Tensor]:
    """Our logits [B, T, V] for whole sequences of equal length."""

    def run(model: Transformer, tokens_BT: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        batch, length = tokens_BT.shape
        if positions_BT is None:
            positions_BT = torch.arange(length).expand(batch, length)
        hidden = model(tokens_BT.reshape(-1), positions_BT.reshape(-1), NoCache(batch, length))
        return model.logits(hidden).view(batch, length, -1)

    return run
