"""Looks at held-out text: its loss, and how often the main model agrees with a prediction module's draft."""

from typing import NamedTuple

import torch
from torch import Tensor

from fathom.models.cache import NoCache
from fathom.models.transformer import Transformer
from fathom.training.cross_entropy import chunked_cross_entropy
from fathom.training.objective import head_weight

_ROWS = 8  # rows of a forward


class Evaluation(NamedTuple):
    """`loss`: nats per token. `acceptance`: share of the second tokens drafted by the first prediction module that the
    main model would choose too, greedily and on the given text; None without a module.
    """

    loss: float
    acceptance: float | None


@torch.no_grad()
def evaluate(model: Transformer, tokens_BW: Tensor, loss_rows: int = 1024) -> Evaluation:
    """Evaluate on rows of T+2 tokens [B, T+2] (their last two are only targets).

    At each place i the module sees the main model's hidden state there and the true token i+1 and drafts token i+2;
    the draft is accepted where the main model, having read up to i+1, finds the same token most likely. That is the
    acceptance of speculative decoding on text that follows the corpus, not the model's own output.
    """
    length = tokens_BW.shape[1] - 2
    loss, accepted, drafted = 0.0, 0, 0
    for part_BW in torch.split(tokens_BW, _ROWS):
        batch = part_BW.shape[0]
        cache = NoCache(batch, length)
        positions_N = torch.arange(length, device=part_BW.device).repeat(batch)
        hidden_ND = model(part_BW[:, :length].flatten(), positions_N, cache)
        targets_N = part_BW[:, 1 : length + 1].flatten()
        loss += float(chunked_cross_entropy(hidden_ND, head_weight(model), targets_N, loss_rows))
        if len(model.mtp):
            further_ND = model.predict_further(0, hidden_ND, targets_N, positions_N, cache)
            chosen_BT, draft_BT = (_greedy(model, rows, loss_rows).view(batch, -1) for rows in (hidden_ND, further_ND))
            accepted += int((draft_BT[:, :-1] == chosen_BT[:, 1:]).sum())
            drafted += batch * (length - 1)
    return Evaluation(loss / (tokens_BW.shape[0] * length), accepted / drafted if drafted else None)


def _greedy(model: Transformer, hidden_ND: Tensor, rows: int) -> Tensor:
    return torch.cat([model.logits(part).argmax(dim=-1) for part in torch.split(hidden_ND, rows)])
