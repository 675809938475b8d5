"""The runner for every architecture and device: `models.Transformer` over a paged cache."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fathom.engine.paged_cache import PagedCache
from fathom.engine.pages import PAGE_TOKENS
from fathom.engine.runner import Continuation, SequenceStep
from fathom.models.config import ModelConfig
from fathom.models.transformer import Transformer


def bytes_per_page(config: ModelConfig, dtype: torch.dtype, page_tokens: int = PAGE_TOKENS) -> int:
    """Bytes of cache that one page of all layers takes, those of the prediction modules among them."""
    return config.num_cache_layers * config.cache_width * dtype.itemsize * page_tokens


class TorchRunner:
    """Implements `DraftingRunner`; device and number format are those of the model's weights, the cache has the same.

    Args:
        model: the transformer, on its device.
        n_pages: pages of cache to allocate; memory is touched only as pages are used.
        max_context: most tokens of one sequence.
        page_tokens: tokens of a page.

    """

    def __init__(self, model: Transformer, *, n_pages: int, max_context: int, page_tokens: int = PAGE_TOKENS) -> None:
        weight = model.model.embed_tokens.weight
        self.name = f"torch {weight.device.type} {str(weight.dtype).removeprefix('torch.')}"
        self.page_tokens = page_tokens
        self.n_pages = n_pages
        self.bytes_per_page = bytes_per_page(model.config, weight.dtype, page_tokens)
        self.max_context = max_context
        self.vocab_size = model.config.vocab_size
        self.max_draft = len(model.mtp)
        self._device = weight.device
        self._model: Transformer | None = model
        self._last_steps: Sequence[SequenceStep] = ()
        self._last_hidden_ND: Tensor | None = None
        self._cache: PagedCache | None = PagedCache(model.config, n_pages, page_tokens, weight.dtype, weight.device)

    @torch.inference_mode()
    def step(self, sequences: Sequence[SequenceStep]) -> Tensor:
        """See Runner."""
        if self._model is None or self._cache is None:
            raise RuntimeError("this runner is closed; load the model again")
        positions_N = self._cache.begin(sequences)
        tokens_N = self._ids([token for one in sequences for token in one.tokens])
        hidden_ND = self._model(tokens_N, positions_N, self._cache)
        if self.max_draft:
            self._last_steps, self._last_hidden_ND = sequences, hidden_ND
        return self._model.logits(hidden_ND[self._wanted_rows(sequences)])

    @torch.inference_mode()
    def draft(self, continuations: Sequence[Continuation]) -> list[list[int]]:
        """See DraftingRunner. Module k sees, for the row at position i, the token at i + k + 1 (V3, equation 21)."""
        if self._model is None or self._cache is None or self._last_hidden_ND is None:
            raise RuntimeError("draft() follows a step of a model with prediction modules")
        kept = [(one, step) for one, step in zip(continuations, self._last_steps, strict=True) if one.kept]
        hidden_ND = self._last_hidden_ND[self._kept_rows(continuations)]
        positions_N = self._cache.begin(
            [SequenceStep(step.tokens[: one.kept], step.start, step.pages, 0) for one, step in kept]
        )
        last_rows = self._ids([one.kept for one, _ in kept]).cumsum(0) - 1
        guesses: list[list[int]] = [[] for _ in kept]
        for depth in range(self.max_draft):
            seen: list[int] = []
            for (one, step), guess in zip(kept, guesses, strict=True):
                known = [*step.tokens[1 : one.kept], *one.following, *guess[len(one.following) - 1 :]]
                seen += known[depth : depth + one.kept]
            hidden_ND = self._model.predict_further(depth, hidden_ND, self._ids(seen), positions_N, self._cache)
            best = self._model.logits(hidden_ND[last_rows]).argmax(dim=-1).tolist()
            for guess, token in zip(guesses, best, strict=True):
                guess.append(token)
        made = iter(guesses)
        return [next(made)[: one.wanted] if one.kept else [] for one in continuations]

    def close(self) -> None:
        """See Runner."""
        self._model = self._cache = self._last_hidden_ND = None

    def _wanted_rows(self, sequences: Sequence[SequenceStep]) -> Tensor:
        rows: list[int] = []
        end = 0
        for one in sequences:
            rows += range(end + one.logits_from, end + len(one.tokens))
            end += len(one.tokens)
        return self._ids(rows)

    def _kept_rows(self, continuations: Sequence[Continuation]) -> Tensor:
        rows: list[int] = []
        end = 0
        for one, step in zip(continuations, self._last_steps, strict=True):
            rows += range(end, end + one.kept)
            end += len(step.tokens)
        return self._ids(rows)

    def _ids(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64).to(self._device)
