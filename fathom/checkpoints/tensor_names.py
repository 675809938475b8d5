"""The tensors that a model's checkpoint must hold: every name and shape accounted for before anything is read."""

import logging
import re
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from fathom.checkpoints.checkpoint import Checkpoint, listed
from fathom.checkpoints.errors import MismatchError
from fathom.models.config import ModelConfig

log = logging.getLogger(__name__)

ROUTER_BIAS = "mlp.gate.e_score_correction_bias"  # float32 in every checkpoint: its steps of 0.001 vanish in bfloat16
_STACKED = re.compile(r"(model\.layers\.\d+\.mlp\.experts)\.(gate_proj|up_proj|down_proj)")
_ROTARY_TABLE = re.compile(r"(model\.layers\.\d+\.self_attn|model)\.rotary_emb\.(inv_freq|cos_cached|sin_cached)")
_PREDICTION_COPY = re.compile(r"model\.layers\.(\d+)\.(embed_tokens|shared_head\.head)\.weight")


def present_config(config: ModelConfig, names: Iterable[str]) -> ModelConfig:
    """The config without prediction modules where the checkpoint holds none of their tensors (transformers drops
    them when it saves, yet keeps the key); a part of them is missing tensors, not this case.
    """
    if not config.num_nextn_predict_layers:
        return config
    prefixes = tuple(f"model.layers.{config.num_hidden_layers + k}." for k in range(config.num_nextn_predict_layers))
    if any(name.startswith(prefixes) for name in names):
        return config
    log.warning("the checkpoint holds no multi-token prediction module; the model is loaded without it")
    return replace(config, num_nextn_predict_layers=0)


def parts_of(name: str, shape: tuple[int, ...]) -> list[str]:
    """The Hugging Face names that make up one entry of the Transformer's state: one, or one per stacked expert."""
    match = _STACKED.fullmatch(name)
    return [f"{match[1]}.{expert}.{match[2]}.weight" for expert in range(shape[0])] if match else [name]


def check_names(checkpoint: Checkpoint, config: ModelConfig, expected: dict[str, tuple[int, ...]]) -> None:
    """Hold names and shapes against each other before anything is read.

    Raises:
        MismatchError: naming what is missing, unused or of the wrong shape.

    """
    names = set(checkpoint.names())
    wanted = {
        part: shape[1:] if part != name else shape for name, shape in expected.items() for part in parts_of(name, shape)
    }
    missing = [name for name in wanted if name not in names]
    unused = [name for name in sorted(names) if name not in wanted and not _known(checkpoint, name, config)]
    wrong = [
        f"{name} (is {list(checkpoint.info(name).shape)}, should be {list(shape)})"
        for name, shape in wanted.items()
        if name in names and checkpoint.info(name).shape != shape
    ]
    complaints = [
        f"{len(found)} {what}: {listed(found)}"
        for found, what in ((missing, "missing"), (unused, "unused"), (wrong, "of the wrong shape"))
        if found
    ]
    if complaints:
        raise MismatchError(f"{checkpoint.path} does not fit its config; tensors " + "; ".join(complaints))


def _known(checkpoint: Checkpoint, name: str, config: ModelConfig) -> bool:
    """Tensors that may be left out: tables that follow from the config, and copies of the embedding and the head."""
    if _ROTARY_TABLE.fullmatch(name):
        return True
    copy = _PREDICTION_COPY.fullmatch(name)
    if copy is not None:
        return int(copy[1]) >= config.num_hidden_layers
    if name == "lm_head.weight" and config.tie_word_embeddings:
        if not _equal(checkpoint, name, "model.embed_tokens.weight"):
            raise MismatchError(
                f"{checkpoint.path}: config.json ties the output head to the embedding (tie_word_embeddings), "
                "but lm_head.weight differs from it; set the key to false if the head is meant to be used"
            )
        return True
    return False


def _equal(checkpoint: Checkpoint, one: str, other: str) -> bool:
    if checkpoint.info(one).type == checkpoint.info(other).type:
        return np.array_equal(checkpoint.stored(one).data, checkpoint.stored(other).data)
    return bool((checkpoint.tensor(one) == checkpoint.tensor(other)).all())
