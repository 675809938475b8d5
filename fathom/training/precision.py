"""Which products of a model are computed in FP8, put on it from outside (DeepSeek-V3, section 3.3.1)."""

from fathom.kernels.fp8 import FP8
from fathom.models.experts import Experts
from fathom.models.layers import Linear
from fathom.models.transformer import Block, Transformer


def apply_precision(model: Transformer, precision: str) -> None:
    """Give the linear layers of attention, feed-forwards and experts FP8 products where `precision` is "fp8".

    What stays as it is: embedding, output head, gates, norms, the attention operators, and the projection that joins
    hidden state and embedding in a prediction module (in the released weights it is bfloat16).
    """
    if precision != "fp8":
        return
    for block in model.modules():
        if isinstance(block, Block):
            for layer in (*block.self_attn.modules(), *block.mlp.modules()):
                if isinstance(layer, (Linear, Experts)):
                    layer.products = FP8
