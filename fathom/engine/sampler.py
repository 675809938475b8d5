"""Choose one token per row of logits: vectorised over the batch, where the logits lie (`fathom.engine.arrays`).

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

import numpy as np

from fathom.engine.arrays import Array, HostArrays, Logits, TensorArrays, arrays_of
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


@np.errstate(all="ignore")  # rows that are not finite are dealt with at the end
def sample(logits_BV: Logits, states: Sequence[SamplingState]) -> list[TokenChoice | None]:
    """Choose a token for each row.

    Args:
        logits_BV: float32, one row per state. Overwritten where bias, penalties or constraints apply.
        states: one per row; the generators of rows that sample advance by one number.

    Returns:
        One choice per row; None where the row's logits are not finite (a broken model or an overflow), or where the
        constraint has failed (its `failure` says why).

    """
    arrays = arrays_of(logits_BV)
    best_B, tokens_B = arrays.best(logits_BV)
    params = [state.params for state in states]
    asked = [row for row, p in enumerate(params) if p.logprobs is not None]
    logprobs_AV = arrays.log_softmax(logits_BV[asked]) if asked else None
    constrained = {
        row: s.constraint for row, s in enumerate(states) if s.constraint is not None and s.constraint.engaged
    }
    if constrained or any(p.changes_logits for p in params) or any(state.banned for state in states):
        _change(logits_BV, states)
        apply_constraints(logits_BV, constrained)
        tokens_B = logits_BV.argmax(-1)
    random_rows = [row for row, p in enumerate(params) if not p.greedy]
    if random_rows:
        tokens_B = _draw(logits_BV, tokens_B, states, random_rows)
    tokens = arrays.where(arrays.finite(best_B), tokens_B, -1).tolist()
    for row, constraint in constrained.items():
        if constraint.failure is not None:
            tokens[row] = -1
    if logprobs_AV is None:
        return [None if token < 0 else TokenChoice(token) for token in tokens]
    return _with_logprobs(tokens, params, asked, logprobs_AV)


def _change(logits_BV: Logits, states: Sequence[SamplingState]) -> None:
    biases = {row: state.params.logit_bias for row, state in enumerate(states) if state.params.logit_bias}
    if biases:
        apply_bias(logits_BV, biases)
    penalised = {row: (s.params, s.occurrences) for row, s in enumerate(states) if s.occurrences is not None}
    if penalised:
        apply_penalties(logits_BV, penalised)
    for row, state in enumerate(states):
        if state.banned:
            logits_BV[row, list(state.banned)] = -math.inf


def _draw(logits_BV: Logits, tokens_B: Array, states: Sequence[SamplingState], rows: list[int]) -> Array:
    """`tokens_B` with a random token in each of the given rows."""
    arrays = arrays_of(logits_BV)
    tokens_B = arrays.copy(tokens_B)
    filtered = [row for row in rows if states[row].params.top_k or states[row].params.top_p < 1.0]
    plain = [row for row in rows if not (states[row].params.top_k or states[row].params.top_p < 1.0)]
    for chosen, draw in ((plain, draw_from_all), (filtered, draw_from_best)):
        if chosen:
            rows_of = logits_BV if len(chosen) == len(states) else logits_BV[chosen]
            tokens_B[chosen] = draw(rows_of, _Filter.of([states[row] for row in chosen], arrays))
    return tokens_B


@dataclass(frozen=True, slots=True)
class _Filter:
    """Sampling parameters of several rows [B]; float64 where compared with running sums."""

    temperature: Array  # float32
    top_k: Array
    top_p: Array
    min_p: Array
    uniform: Array  # in [0, 1)

    @classmethod
    def of(cls, states: Sequence[SamplingState], arrays: HostArrays | TensorArrays) -> "_Filter":
        columns = [(s.params.temperature, s.params.top_k, s.params.top_p, s.params.min_p, s.uniform()) for s in states]
        table = arrays.host(np.array(columns, dtype=np.float64))  # one transfer
        return cls(arrays.single(table[:, 0]), *(table[:, column] for column in range(1, 5)))

    def rows(self, which_B: Array) -> "_Filter":
        return _Filter(
            self.temperature[which_B],
            self.top_k[which_B],
            self.top_p[which_B],
            self.min_p[which_B],
            self.uniform[which_B],
        )


def _weights(logits_BX: Logits, maxima_B: Array, temperature_B: Array) -> Array:
    """Probabilities up to a factor: 1 for the most probable token."""
    weights_BX = logits_BX - maxima_B[:, None]
    weights_BX /= temperature_B[:, None]
    return arrays_of(logits_BX).exp(weights_BX)


def draw_from_all(logits_BV: Logits, filters: _Filter) -> Array:
    """One token per row from the whole distribution, after min-p: first a block of the vocabulary, then within it."""
    arrays = arrays_of(logits_BV)
    weights_BV = _weights(logits_BV, arrays.largest(logits_BV), filters.temperature)
    if bool((filters.min_p > 0).any()):
        weights_BV[weights_BV < arrays.single(filters.min_p)[:, None]] = 0.0
    if weights_BV.shape[1] % BLOCK:
        weights_BV = arrays.padded(weights_BV, -weights_BV.shape[1] % BLOCK)
    blocks_BMX = weights_BV.reshape(len(weights_BV), -1, BLOCK)
    sums_BM = arrays.double(blocks_BMX.sum(-1))
    ends_BM = sums_BM.cumsum(-1)
    target_B = filters.uniform * ends_BM[:, -1]
    block_B = _invert(ends_BM, target_B)
    rows = arrays.host(np.arange(len(weights_BV)))
    # Where in the block, as a share of it: robust to the sum and the running sum rounding differently.
    share_B = (target_B - (ends_BM - sums_BM)[rows, block_B]) / sums_BM[rows, block_B]
    inner_BX = arrays.double(blocks_BMX[rows, block_B]).cumsum(-1)
    inner_B = _invert(inner_BX, share_B.clip(0.0, 1.0 - 1e-12) * inner_BX[:, -1])
    return block_B * BLOCK + inner_B


def draw_from_best(logits_BV: Logits, filters: _Filter, n_candidates: int = N_CANDIDATES) -> Array:
    """One token per row after top-k, top-p and min-p, from the `n_candidates` most probable where those suffice."""
    arrays = arrays_of(logits_BV)
    vocabulary = logits_BV.shape[1]
    n_candidates = min(n_candidates, vocabulary)
    best_BK, tokens_BK = arrays.top(logits_BV, n_candidates)
    weights_BK = arrays.double(_weights(best_BK, best_BK[:, 0], filters.temperature))
    ends_BK = weights_BK.cumsum(-1)
    rows, ranks_K = (arrays.host(np.arange(size)) for size in weights_BK.shape)
    limit_B = arrays.where(filters.top_k > 0, filters.top_k, float(vocabulary))
    last_B = limit_B.clip(None, n_candidates) - 1
    mass_B = (ends_BK * (ranks_K == last_B[:, None])).sum(-1)  # what top-p is a share of
    short_B = limit_B > n_candidates
    if bool(short_B.any()):
        rest_BV = _weights(logits_BV[short_B], best_BK[short_B, 0], filters.temperature[short_B])
        mass_B[short_B] = arrays.double(rest_BV.sum(-1))  # exact for top-k off; large top-k are redone below
        short_B &= (ends_BK[:, -1] < filters.top_p * mass_B) | (filters.top_k > n_candidates)
    kept_BK = (ranks_K < limit_B[:, None]) & (ends_BK - weights_BK < (filters.top_p * mass_B)[:, None])
    kept_BK &= weights_BK >= filters.min_p[:, None]
    last_B = kept_BK.sum(-1).clip(1, None) - 1  # each condition holds for a prefix of the ranks
    target_B = filters.uniform * ends_BK[rows, last_B]
    rank_B = _invert(ends_BK, target_B)
    chosen_B = tokens_BK[rows, arrays.where(rank_B < last_B, rank_B, last_B)]
    if n_candidates < vocabulary and bool(short_B.any()):
        more = n_candidates * MORE_CANDIDATES
        chosen_B[short_B] = draw_from_best(logits_BV[short_B], filters.rows(short_B), more)
    return chosen_B


def _invert(ends_BX: Array, target_B: Array) -> Array:
    """First index per row whose running sum exceeds the target."""
    return (ends_BX <= target_B[:, None]).sum(-1).clip(None, ends_BX.shape[1] - 1)


def _with_logprobs(
    tokens: list[int], params: list[SamplingParams], asked: list[int], logprobs_AV: Array
) -> list[TokenChoice | None]:
    choices = [None if token < 0 else TokenChoice(token) for token in tokens]
    n_top = max(params[row].logprobs or 0 for row in asked)
    values_AK, tokens_AK = arrays_of(logprobs_AV).top(logprobs_AV, n_top)
    top_values, top_tokens = values_AK.tolist(), tokens_AK.tolist()
    chosen = logprobs_AV[list(range(len(asked))), [max(tokens[row], 0) for row in asked]].tolist()
    for index, row in enumerate(asked):
        if choices[row] is not None:
            n = params[row].logprobs or 0
            alternatives = tuple(zip(top_tokens[index][:n], top_values[index][:n], strict=True))
            choices[row] = TokenChoice(tokens[row], chosen[index], alternatives)
    return choices
