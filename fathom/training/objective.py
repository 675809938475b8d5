"""What a micro-batch is trained on: next tokens, tokens further on, and the balance of experts.

B rows, T tokens of one, W = T + 1 + D their width with the targets of D prediction modules, N = B*T, E experts.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fathom.models.cache import NoCache
from fathom.models.config import ModelConfig
from fathom.models.experts import Routing
from fathom.models.transformer import Transformer
from fathom.training import balance
from fathom.training.cross_entropy import IGNORED, chunked_cross_entropy
from fathom.training.parallel import Layout
from fathom.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Rows:
    """tokens_BW int64, and documents_BW (which document of its row a token is of) where documents are masked."""

    tokens_BW: Tensor
    documents_BW: Tensor | None

    def split(self, size: int) -> list["Rows"]:
        """Micro-batches of `size` rows."""
        tokens = torch.split(self.tokens_BW, size)
        if self.documents_BW is None:
            return [Rows(part, None) for part in tokens]
        return [
            Rows(part, documents) for part, documents in zip(tokens, torch.split(self.documents_BW, size), strict=True)
        ]

    def targets(self, depth: int, length: int) -> Tensor:
        """targets_BT of the level `depth` (0: the next token); those in another document are IGNORED."""
        ahead = slice(depth + 1, depth + 1 + length)
        targets_BT = self.tokens_BW[:, ahead]
        if self.documents_BW is None:
            return targets_BT
        return targets_BT.masked_fill(self.documents_BW[:, ahead] != self.documents_BW[:, :length], IGNORED)

    def counted(self, depth: int, length: int) -> int:
        """How many targets of the level count."""
        return int((self.targets(depth, length) != IGNORED).sum())

    def mask(self, length: int) -> Tensor | None:
        """mask_BTT, true within a document and not ahead; None: causal."""
        if self.documents_BW is None:
            return None
        documents_BT = self.documents_BW[:, :length]
        same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
        return same_BTT & torch.ones(length, length, dtype=torch.bool, device=documents_BT.device).tril()


class Losses(NamedTuple):
    """Parts of the loss, each with the factor it has in the sum."""

    next_token: Tensor
    prediction: Tensor
    balance: Tensor

    def total(self) -> Tensor:
        """What is differentiated."""
        return self.next_token + self.prediction + self.balance


class Objective:
    """Computes the losses of micro-batches so that their sum over a step is the loss of the whole batch.

    `loads`: how many choices fell on each expert since `begin`, int64 [E] by layer.
    """

    def __init__(self, model: Transformer, recipe: Recipe, layout: Layout | None = None) -> None:
        """`layout`: other processes with rows of the same batch; counts and means are over all of them."""
        self._model, self._recipe, self._layout = model, recipe, layout or Layout()
        self._length = recipe.data.sequence_length
        self._routings: list[Routing] = []
        self.loads: dict[int, Tensor] = {}
        self._counted: list[int] = []
        self._micro_batches, self._prediction_weight = 1, 0.0

    def begin(self, rows: Rows, prediction_weight: float) -> list[Rows]:
        """Prepare a step over `rows` and return its micro-batches."""
        parts = rows.split(self._recipe.batch.micro_sequences)
        levels = range(1 + len(self._model.mtp))
        counted = self._layout.sum(torch.tensor([rows.counted(depth, self._length) for depth in levels]))
        self._counted = [max(1, count) for count in counted.tolist()]
        self._micro_batches, self._prediction_weight = len(parts) * self._layout.ranks, prediction_weight
        self.loads = {}
        return parts

    def losses(self, rows: Rows) -> Losses:
        """The part of one micro-batch."""
        self._routings = []
        batch = rows.tokens_BW.shape[0]
        positions_N = torch.arange(self._length, device=rows.tokens_BW.device).repeat(batch)
        cache = NoCache(batch, self._length, rows.mask(self._length))
        tokens_N = rows.tokens_BW[:, : self._length].flatten()
        hidden_ND = self._model(tokens_N, positions_N, cache, record=self._record)
        next_token = self._cross_entropy(hidden_ND, rows, 0)
        prediction = torch.zeros_like(next_token)
        modules = len(self._model.mtp)
        for depth in range(modules):
            next_N = rows.tokens_BW[:, depth + 1 : depth + 1 + self._length].flatten()
            hidden_ND = self._model.predict_further(depth, hidden_ND, next_N, positions_N, cache, record=self._record)
            prediction = prediction + self._cross_entropy(hidden_ND, rows, depth + 1)
        return Losses(next_token, prediction * (self._prediction_weight / max(1, modules)), self._balance(batch))

    def _cross_entropy(self, hidden_ND: Tensor, rows: Rows, depth: int) -> Tensor:
        """Mean over the targets of the whole step (V3, eq. 24)."""
        targets_N = rows.targets(depth, self._length).flatten()
        total = chunked_cross_entropy(hidden_ND, head_weight(self._model), targets_N, self._recipe.loss_rows)
        return total / self._counted[depth]

    def _record(self, layer: int, routing: Routing) -> None:
        load_E = balance.expert_load(routing.selected_NK, routing.scores_NE.shape[1])
        self.loads[layer] = self.loads[layer] + load_E if layer in self.loads else load_E
        self._routings.append(routing)

    def _balance(self, batch: int) -> Tensor:
        losses = [balance_loss(self._recipe, routing, batch) for routing in self._routings]
        total = torch.stack(losses).sum() if losses else torch.zeros((), device=head_weight(self._model).device)
        return total / self._micro_batches


def balance_loss(recipe: Recipe, routing: Routing, batch: int) -> Tensor:
    """The balance losses of one mixture with the recipe's factors."""
    config: ModelConfig = recipe.model
    scores_BTE = torch.unflatten(routing.scores_NE, 0, (batch, -1))
    selected_BTK = torch.unflatten(routing.selected_NK, 0, (batch, -1))
    if recipe.balance_v2 is not None:
        factors, groups = recipe.balance_v2, config.n_group
        loss = factors.expert * balance.expert_balance_loss(scores_BTE, selected_BTK)
        loss = loss + factors.device * balance.device_balance_loss(scores_BTE, selected_BTK, groups)
        arguments = (scores_BTE, selected_BTK, groups, config.topk_group)
        return loss + factors.communication * balance.communication_balance_loss(*arguments)
    if recipe.balance_v3 is not None:
        return recipe.balance_v3.sequence * balance.sequence_balance_loss(scores_BTE, config.num_experts_per_tok)
    return torch.zeros((), device=scores_BTE.device)


def head_weight(model: Transformer) -> Tensor:
    """weight_VD of the output head."""
    tied = model.config.tie_word_embeddings
    return model.model.embed_tokens.weight if tied else model.lm_head.weight
