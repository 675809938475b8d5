"""The runner for every architecture and device: `models.Transformer` over a paged cache."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.engine.adapters import check_adapter
from fathom.engine.paged_cache import PagedCache
from fathom.engine.pages import PAGE_TOKENS, bytes_per_page
from fathom.engine.runner import Continuation, SequenceStep
from fathom.models.adapter import TARGETS, Adapter
from fathom.models.lora import linear_layers
from fathom.models.transformer import Transformer


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
        self.page_format = f"{self.name} {page_tokens}"
        self.bytes_per_page = bytes_per_page(model.config, weight.dtype.itemsize, page_tokens)
        self.max_context = max_context
        self.vocab_size = model.config.vocab_size
        self.max_draft = len(model.mtp)
        self._device = weight.device
        self._model: Transformer | None = model
        self._last_steps: Sequence[SequenceStep] = ()
        self._last_hidden_ND: Tensor | None = None
        self._adapters: dict[int, Adapter] = {}
        self._cache: PagedCache | None = PagedCache(model.config, n_pages, page_tokens, weight.dtype, weight.device)

    @torch.no_grad()  # not inference_mode: the sampler changes these logits, in place, after the call
    def step(self, sequences: Sequence[SequenceStep]) -> Tensor:
        """See Runner."""
        if self._model is None or self._cache is None:
            raise RuntimeError("this runner is closed; load the model again")
        positions_N = self._cache.begin(sequences)
        tokens_N = self._ids([token for one in sequences for token in one.tokens])
        with self._adapted(self._model, sequences):
            hidden_ND = self._model(tokens_N, positions_N, self._cache)
        if self.max_draft:
            self._last_steps, self._last_hidden_ND = sequences, hidden_ND
        return self._model.logits(hidden_ND[self._wanted_rows(sequences)])

    @torch.inference_mode()
    def draft(self, continuations: Sequence[Continuation]) -> list[list[int]]:
        """See DraftingRunner."""
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
                seen += one.seen(step.tokens, guess, depth)
            hidden_ND = self._model.predict_further(depth, hidden_ND, self._ids(seen), positions_N, self._cache)
            best = self._model.logits(hidden_ND[last_rows]).argmax(dim=-1).tolist()
            for guess, token in zip(guesses, best, strict=True):
                guess.append(token)
        made = iter(guesses)
        return [next(made)[: one.wanted] if one.kept else [] for one in continuations]

    def set_adapter(self, number: int, adapter: Adapter) -> None:
        """See Runner."""
        if self._model is None:
            raise RuntimeError("this runner is closed; load the model again")
        shapes = {name: (linear.out_features, linear.in_features) for name, linear in _adaptable(self._model).items()}
        check_adapter(adapter, shapes)
        like = self._model.model.embed_tokens.weight
        pairs = {name: (down.to(like, copy=True), up.to(like, copy=True)) for name, (down, up) in adapter.pairs.items()}
        self._adapters[number] = Adapter(adapter.scale, pairs)

    def drop_adapter(self, number: int) -> None:
        """See Runner."""
        self._adapters.pop(number, None)

    @contextmanager
    def _adapted(self, model: Transformer, sequences: Sequence[SequenceStep]) -> Iterator[None]:
        """While it lasts, rows with an adapter get its part added to what the linear layers return."""
        rows: dict[int, list[int]] = {}
        end = 0
        for one in sequences:
            if one.adapter is not None:
                rows.setdefault(one.adapter, []).extend(range(end, end + len(one.tokens)))
            end += len(one.tokens)
        hooks = [
            model.get_submodule(name).register_forward_hook(_LowRankRows(adapter.scale, down, up, rows_M))
            for adapter, rows_M in ((self._adapters[number], self._ids(each)) for number, each in rows.items())
            for name, (down, up) in adapter.pairs.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def read_page(self, page: int) -> bytes:
        """See PagingRunner."""
        if self._cache is None:
            raise RuntimeError("this runner is closed; load the model again")
        return self._cache.page(page).contiguous().view(torch.uint8).cpu().numpy().tobytes()

    def write_page(self, page: int, data: bytes | bytearray) -> None:
        """See PagingRunner."""
        if self._cache is None:
            raise RuntimeError("this runner is closed; load the model again")
        target = self._cache.page(page)
        with torch.inference_mode():
            target.copy_(torch.frombuffer(bytearray(data), dtype=target.dtype).view(target.shape))

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


class _LowRankRows:
    """A forward hook that adds scale * B (A x) to some rows of what a linear layer returned."""

    def __init__(self, scale: float, a_RI: Tensor, b_OR: Tensor, rows_M: Tensor) -> None:
        self._scale, self._a_RI, self._b_OR, self._rows_M = scale, a_RI, b_OR, rows_M

    def __call__(self, _layer: nn.Module, inputs: tuple[Any, ...], output_NO: Tensor) -> None:
        narrow_MR = F.linear(inputs[0][self._rows_M], self._a_RI)
        output_NO.index_add_(0, self._rows_M, self._scale * F.linear(narrow_MR, self._b_OR))


def _adaptable(model: Transformer) -> dict[str, nn.Linear]:
    """The layers of the main model that may have an adapter."""
    return {name: layer for name, layer in linear_layers(model) if name.rpartition(".")[2] in TARGETS}
