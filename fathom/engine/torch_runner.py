"""The runner for every architecture and device: `models.Transformer` over a paged cache."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fathom.engine.paged_cache import PagedCache
from fathom.engine.pages import PAGE_TOKENS
from fathom.engine.runner import SequenceStep
from fathom.models.config import ModelConfig
from fathom.models.transformer import Transformer


def bytes_per_page(config: ModelConfig, dtype: torch.dtype, page_tokens: int = PAGE_TOKENS) -> int:
    """Bytes of cache that one page of all layers takes."""
    return config.num_hidden_layers * config.cache_width * dtype.itemsize * page_tokens


class TorchRunner:
    """Implements `Runner`; device and number format are those of the model's weights, the cache has the same.

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
        self._device = weight.device
        self._model: Transformer | None = model
        self._cache: PagedCache | None = PagedCache(model.config, n_pages, page_tokens, weight.dtype, weight.device)

    @torch.inference_mode()
    def step(self, sequences: Sequence[SequenceStep]) -> Tensor:
        """See Runner."""
        if self._model is None or self._cache is None:
            raise RuntimeError("this runner is closed; load the model again")
        positions_N = self._cache.begin(sequences)
        tokens_N = torch.tensor([token for one in sequences for token in one.tokens]).to(self._device)
        hidden_ND = self._model(tokens_N, positions_N, self._cache)
        return self._model.logits(hidden_ND[self._wanted_rows(sequences)])

    def close(self) -> None:
        """See Runner."""
        self._model = self._cache = None

    def _wanted_rows(self, sequences: Sequence[SequenceStep]) -> Tensor:
        rows: list[int] = []
        end = 0
        for one in sequences:
            rows += range(end + one.logits_from, end + len(one.tokens))
            end += len(one.tokens)
        return torch.tensor(rows, dtype=torch.int64).to(self._device)
