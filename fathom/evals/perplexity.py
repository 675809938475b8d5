"""Perplexity of a model on conversations: how well it foresees the assistant's turns, with or without an adapter."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from fathom.checkpoints import open_checkpoint
from fathom.checkpoints.adapters import read_adapter
from fathom.engine.loading import read_template, read_tokenizer
from fathom.models.lora import LowRankTraining
from fathom.text import Message
from fathom.training.log_probabilities import log_probabilities
from fathom.training.objective import head_weight
from fathom.training.sequences import flat_batch
from fathom.training.sft_data import Example, examples, micro_batches, read_conversations
from fathom.training.sft_weights import trainable_model

_ROWS = 2048


@torch.no_grad()
def perplexity(model: Path, file: Path, *, adapter: Path | None = None, system: str | None = None) -> float:
    """Exp of the mean -log p over the tokens of the answers in a JSONL of conversations (thoughts are not counted)."""
    tokenizer = read_tokenizer(open_checkpoint(model))
    template = read_template(tokenizer)
    found: list[Example] = []
    for conversation in read_conversations(file):
        plain = [Message(turn.role, turn.content) for turn in conversation]
        if system is not None and plain[0].role != "system":
            plain = [Message("system", system), *plain]
        found += examples(plain, template, tokenizer, "answers")
    transformer, _ = trainable_model(model, "bfloat16", full=False)
    if adapter is not None:
        LowRankTraining(transformer, read_adapter(adapter).adapter)
    total = 0.0
    for part in micro_batches(found, _ROWS):
        batch = flat_batch([example.ids[:-1] for example in part])
        hidden_ND = transformer(batch.tokens_N, batch.positions_N, batch.cache())
        rows, targets = _learned(part, batch.starts)
        total -= float(log_probabilities(hidden_ND[rows], head_weight(transformer), targets).chosen_M.sum())
    return math.exp(total / sum(sum(example.learned) for example in found))


def _learned(part: Sequence[Example], starts: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows whose next token counts, and those tokens."""
    rows, targets = [], []
    for start, example in zip(starts, part, strict=True):
        for place in range(1, len(example.ids)):
            if example.learned[place]:
                rows.append(start + place - 1)
                targets.append(example.ids[place])
    return torch.tensor(rows), torch.tensor(targets)
