"""Names and shapes without torch against the modules themselves."""

from dataclasses import replace

import pytest
import torch

from fathom.models import PRESETS
from fathom.models.shapes import parameter_shapes
from fathom.models.transformer import Transformer

# The large presets differ from these in sizes alone.
CONFIGS = {name: config for name, config in PRESETS.items() if name.startswith("tiny") or config.num_hidden_layers < 30}
TINY = PRESETS["tiny-v3"]
CONFIGS |= {
    "biased llama": replace(PRESETS["tiny-llama"], attention_bias=True, tie_word_embeddings=True),
    "without query latent": replace(TINY, q_lora_rank=None),
    "without shared experts": replace(TINY, n_shared_experts=0),
    "without prediction": replace(TINY, num_nextn_predict_layers=0),
    "two predictions": replace(TINY, num_nextn_predict_layers=2),
    "every second layer": replace(TINY, moe_layer_freq=2),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_are_those_of_the_modules(name: str) -> None:
    with torch.device("meta"):
        state = Transformer(CONFIGS[name]).state_dict()
    assert parameter_shapes(CONFIGS[name]) == {name: tuple(tensor.shape) for name, tensor in state.items()}
