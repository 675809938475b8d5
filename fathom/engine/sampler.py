"""Choose one token per row of logits: vectorised over the batch, on the logits' device.

Randomness is one uniform number per token from the request's own generator, turned into a token by inverting the
cumulative distribution. So a seeded request samples the same tokens whatever its neighbours do, and nothing of the
vocabulary's size has to be drawn. Rows without top-k and top-p never sort; rows with them sort a few hundred
candidates, and more only in those rows where these do not hold enough probability.

B rows, V vocabulary, K candidates, M blocks of the vocabulary.
"""

import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.engine.constraint import ConstraintState, apply_constraints
from fathom.engine.penalties import Occurrences, apply_bias, apply_penalties
from fathom.engine.sampling import SamplingParams

N_CANDIDATES = 256
MORE_CANDIDATES = 16  # times as many when those were too few
BLOCK = 128  # divides the vocabularies of Llama 3, Qwen2, DeepSeek V2/V3 and SmolLM2; others are padded


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """A chosen token; log probabilities in the model's own distribution when the request asked for them."""

    token: int
    logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()  # most probable first


class Uniforms:
    """A request's random numbers in [0, 1), one per token; those drawn for tokens that came to nothing come again."""

    def __init__(self, seed: int | None) -> None:
        self._random = random.Random(seed)
        self._drawn: deque[float] = deque(maxlen=64)  # latest last
        self._again: list[float] = []  # next last

    def draw(self) -> float:
        """The next number."""
        self._drawn.append(self._again.pop() if self._again else self._random.random())
        return self._drawn[-1]

    def give_back(self, count: int) -> None:
        """Have the last `count` numbers drawn again, in the same order."""
        for _ in range(min(count, len(self._drawn))):
            self._again.append(self._drawn.pop())


class SamplingState:
    """What choosing one request's next token depends on: its parameters, its generator, the tokens so far, its form."""

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int],
        *,
        constraint: ConstraintState | None = None,
        uniforms: Uniforms | None = None,
        occurrences: Occurrences | None = None,
    ) -> None:
        self.params = params
        self.constraint = constraint
        self.banned: Sequence[int] = ()  # tokens that may not come next
        self._uniforms = uniforms or Uniforms(params.seed)
        self.occurrences = occurrences or (Occurrences(prompt) if params.penalises else None)

    def uniform(self) -> float:
        """The next number of the request's generator, in [0, 1)."""
        return self._uniforms.draw()

    def give_back(self, rows: int) -> None:
        """Forget the draws of the last rows, whose tokens came to nothing."""
        if not self.params.greedy:
            self._uniforms.give_back(rows)

    def observe(self, token: int) -> None:
        """Note a generated token."""
        if self.occurrences is not None:
            self.occurrences.add(token)

    def along(self, draft: Sequence[int]) -> list["SamplingState"]:
        """The states of the next token, of the one after draft[0], and so on; their numbers come from one generator."""
        states, occurrences = [self], self.occurrences
        for token in draft:
            if occurrences is not None:
                occurrences = occurrences.copy()
                occurrences.add(token)
            states.append(SamplingState(self.params, (), uniforms=self._uniforms, occurrences=occurrences))
        return states


def sample(logits_BV: Tensor, states: Sequence[SamplingState]) -> list[TokenChoice | None]:
    """Choose a token for each row.

    Args:
        logits_BV: float32, one row per state. Overwritten where bias, penalties or constraints apply.
        states: one per row; the generators of rows that sample advance by one number.

    Returns:
        One choice per row; None where the row's logits are not finite (a broken model or an overflow), or where the
        constraint has failed (its `failure` says why).

    """
    best = logits_BV.max(dim=-1)
    params = [state.params for state in states]
    asked = [row for row, p in enumerate(params) if p.logprobs is not None]
    logprobs_AV = logits_BV[asked].log_softmax(dim=-1) if asked else None
    tokens_B = best.indices
    constrained = {
        row: s.constraint for row, s in enumerate(states) if s.constraint is not None and s.constraint.engaged
    }
    if constrained or any(p.changes_logits for p in params) or any(state.banned for state in states):
        _change(logits_BV, states)
        apply_constraints(logits_BV, constrained)
        tokens_B = logits_BV.argmax(dim=-1)
    random_rows = [row for row, p in enumerate(params) if not p.greedy]
    if random_rows:
        tokens_B = _draw(logits_BV, tokens_B, states, random_rows)
    tokens = tokens_B.masked_fill(~best.values.isfinite(), -1).tolist()
    for row, constraint in constrained.items():
        if constraint.failure is not None:
            tokens[row] = -1
    if logprobs_AV is None:
        return [None if token < 0 else TokenChoice(token) for token in tokens]
    return _with_logprobs(tokens, params, asked, logprobs_AV)


def _change(logits_BV: Tensor, states: Sequence[SamplingState]) -> None:
    biases = {row: state.params.logit_bias for row, state in enumerate(states) if state.params.logit_bias}
    if biases:
        apply_bias(logits_BV, biases)
    penalised = {row: (s.params, s.occurrences) for row, s in enumerate(states) if s.occurrences is not None}
    if penalised:
        apply_penalties(logits_BV, penalised)
    for row, state in enumerate(states):
        if state.banned:
            logits_BV[row, list(state.banned)] = -math.inf


def _draw(logits_BV: Tensor, tokens_B: Tensor, states: Sequence[SamplingState], rows: list[int]) -> Tensor:
    """`tokens_B` with a random token in each of the given rows."""
    tokens_B = tokens_B.clone()
    filtered = [row for row in rows if states[row].params.top_k or states[row].params.top_p < 1.0]
    plain = [row for row in rows if not (states[row].params.top_k or states[row].params.top_p < 1.0)]
    for chosen, draw in ((plain, draw_from_all), (filtered, draw_from_best)):
        if chosen:
            rows_of = logits_BV if len(chosen) == len(states) else logits_BV[chosen]
            tokens_B[chosen] = draw(rows_of, _Filter.of([states[row] for row in chosen], logits_BV.device))
    return tokens_B


@dataclass(frozen=True, slots=True)
class _Filter:
    """Sampling parameters of several rows as tensors [B]."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    uniform: Tensor  # float64 in [0, 1)

    @classmethod
    def of(cls, states: Sequence[SamplingState], device: torch.device) -> "_Filter":
        columns = [(s.params.temperature, s.params.top_k, s.params.top_p, s.params.min_p, s.uniform()) for s in states]
        table = torch.tensor(columns, dtype=torch.float64).to(device)  # one transfer
        return cls(table[:, 0].float(), table[:, 1].long(), table[:, 2], table[:, 3], table[:, 4])

    def rows(self, which_B: Tensor) -> "_Filter":
        return _Filter(
            self.temperature[which_B],
            self.top_k[which_B],
            self.top_p[which_B],
            self.min_p[which_B],
            self.uniform[which_B],
        )


def _weights(logits_BX: Tensor, maxima_B: Tensor, temperature_B: Tensor) -> Tensor:
    """Probabilities up to a factor: 1 for the most probable token."""
    return logits_BX.sub(maxima_B[:, None]).div_(temperature_B[:, None]).exp_()


def draw_from_all(logits_BV: Tensor, filters: _Filter) -> Tensor:
    """One token per row from the whole distribution, after min-p: first a block of the vocabulary, then within it."""
    weights_BV = _weights(logits_BV, logits_BV.amax(dim=-1), filters.temperature)
    if bool((filters.min_p > 0).any()):
        weights_BV.masked_fill_(weights_BV < filters.min_p[:, None].float(), 0.0)
    if weights_BV.shape[1] % BLOCK:
        weights_BV = torch.nn.functional.pad(weights_BV, (0, -weights_BV.shape[1] % BLOCK))
    blocks_BMX = weights_BV.view(len(weights_BV), -1, BLOCK)
    sums_BM = blocks_BMX.sum(dim=-1).double()
    ends_BM = sums_BM.cumsum(dim=-1)
    target_B = filters.uniform * ends_BM[:, -1]
    block_B = _invert(ends_BM, target_B)
    rows = torch.arange(len(weights_BV), device=weights_BV.device)
    # Where in the block, as a share of it: robust to the sum and the running sum rounding differently.
    share_B = (target_B - (ends_BM - sums_BM)[rows, block_B]) / sums_BM[rows, block_B]
    inner_BX = blocks_BMX[rows, block_B].double().cumsum(dim=-1)
    inner_B = _invert(inner_BX, share_B.clamp(0.0, 1.0 - 1e-12) * inner_BX[:, -1])
    return block_B * BLOCK + inner_B


def draw_from_best(logits_BV: Tensor, filters: _Filter, n_candidates: int = N_CANDIDATES) -> Tensor:
    """One token per row after top-k, top-p and min-p, from the `n_candidates` most probable where those suffice."""
    vocabulary = logits_BV.shape[1]
    n_candidates = min(n_candidates, vocabulary)
    best_BK, tokens_BK = logits_BV.topk(n_candidates, dim=-1)
    weights_BK = _weights(best_BK, best_BK[:, 0], filters.temperature).double()
    ends_BK = weights_BK.cumsum(dim=-1)
    limit_B = torch.where(filters.top_k > 0, filters.top_k, vocabulary)
    mass_B = ends_BK.gather(1, (limit_B.clamp(max=n_candidates) - 1)[:, None])[:, 0]  # what top-p is a share of
    short_B = limit_B > n_candidates
    if bool(short_B.any()):
        rest_BV = _weights(logits_BV[short_B], best_BK[short_B, 0], filters.temperature[short_B])
        mass_B[short_B] = rest_BV.sum(dim=-1).double()  # exact for top-k off; rows with a large top-k are redone below
        short_B &= (ends_BK[:, -1] < filters.top_p * mass_B) | (filters.top_k > n_candidates)
    rank_K = torch.arange(n_candidates, device=logits_BV.device)
    kept_BK = (rank_K < limit_B[:, None]) & (ends_BK - weights_BK < (filters.top_p * mass_B)[:, None])
    kept_BK &= weights_BK >= filters.min_p[:, None]
    last_B = kept_BK.sum(dim=-1).clamp(min=1) - 1  # each condition holds for a prefix of the ranks
    target_B = filters.uniform * ends_BK.gather(1, last_B[:, None])[:, 0]
    rank_B = torch.minimum(_invert(ends_BK, target_B), last_B)
    chosen_B = tokens_BK.gather(1, rank_B[:, None])[:, 0]
    if n_candidates < vocabulary and bool(short_B.any()):
        more = n_candidates * MORE_CANDIDATES
        chosen_B[short_B] = draw_from_best(logits_BV[short_B], filters.rows(short_B), more)
    return chosen_B


def _invert(ends_BX: Tensor, target_B: Tensor) -> Tensor:
    """First index per row whose running sum exceeds the target."""
    index_B = torch.searchsorted(ends_BX, target_B[:, None], right=True)[:, 0]
    return index_B.clamp(max=ends_BX.shape[1] - 1)


def _with_logprobs(
    tokens: list[int], params: list[SamplingParams], asked: list[int], logprobs_AV: Tensor
) -> list[TokenChoice | None]:
    choices = [None if token < 0 else TokenChoice(token) for token in tokens]
    n_top = max(params[row].logprobs or 0 for row in asked)
    top = logprobs_AV.topk(n_top, dim=-1)
    top_values, top_tokens = top.values.tolist(), top.indices.tolist()
    chosen_A = torch.tensor([max(tokens[row], 0) for row in asked], device=logprobs_AV.device)
    chosen = logprobs_AV.gather(1, chosen_A[:, None])[:, 0].tolist()
    for index, row in enumerate(asked):
        if choices[row] is not None:
            n = params[row].logprobs or 0
            alternatives = tuple(zip(top_tokens[index][:n], top_values[index][:n], strict=True))
            choices[row] = TokenChoice(tokens[row], chosen[index], alternatives)
    return choices
