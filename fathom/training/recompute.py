"""Activation recomputation, put on a model from outside: only a region's input is kept for the backward."""

from collections.abc import Sequence
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from fathom.models.transformer import Block, Transformer
from fathom.training.recipe import Region


def apply_recompute(model: Transformer, regions: Sequence[Region]) -> None:
    """Recompute the named regions of every block, prediction modules included.

    `attention`: the projections of queries, the expansion of latents to keys and values, rotary and attention itself.
    `feed-forward`: SwiGLU, and with experts the gate and the sorting of rows. Gradients are the same (tests).
    """
    for block in model.modules():
        if isinstance(block, Block):
            if "attention" in regions:
                _wrap(block.self_attn)
            if "feed-forward" in regions:
                _wrap(block.mlp)


def _wrap(module: nn.Module) -> None:
    module.forward = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False)
