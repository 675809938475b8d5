"""The vectorised sampler against transformers' processors, a readable twin row by row, and the distribution itself."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation import logits_process as hf

from fathom.engine.errors import InvalidRequestError
from fathom.engine.sampler import SamplingState, TokenChoice
from fathom.engine.sampler import sample as sample_any
from fathom.engine.sampling import SamplingParams

Sample = Callable[[Tensor, Sequence[SamplingState]], list[TokenChoice | None]]

VOCABULARY = 1000
PROMPT = [3, 5, 5, 8]
OUTPUT = [5, 9, 9, 9, 11]


@pytest.fixture(params=["numpy", "torch"])
def sample(request: pytest.FixtureRequest) -> Sample:
    """The sampler on both kinds of arrays."""
    return sample_any if request.param == "torch" else lambda logits_BV, states: sample_any(logits_BV.numpy(), states)


def state_of(params: SamplingParams) -> SamplingState:
    state = SamplingState(params, PROMPT)
    for token in OUTPUT:
        state.observe(token)
    return state


def processed(row_V: Tensor, params: SamplingParams) -> Tensor:
    """Probabilities of one row, by the formulas for bias and OpenAI's penalties, then by transformers' processors."""
    row_V = row_V.clone()
    for token, bias in params.logit_bias.items():
        row_V[token] += bias
    ids = torch.tensor([PROMPT + OUTPUT])
    row_V = hf.RepetitionPenaltyLogitsProcessor(params.repetition_penalty)(ids, row_V[None])[0]
    for token in set(OUTPUT):
        row_V[token] -= params.presence_penalty + params.frequency_penalty * OUTPUT.count(token)
    warpers = LogitsProcessorList([hf.TemperatureLogitsWarper(params.temperature)])
    if params.top_k:
        warpers.append(hf.TopKLogitsWarper(params.top_k))
    if params.top_p < 1.0:
        warpers.append(hf.TopPLogitsWarper(params.top_p))
    if params.min_p:
        warpers.append(hf.MinPLogitsWarper(params.min_p))
    return warpers(ids, row_V[None])[0].double().softmax(dim=-1)


def twin(row_V: Tensor, params: SamplingParams, uniform: float) -> int:
    """One row, readably: the token whose stretch of the running sum holds the number."""
    probabilities = processed(row_V, params)
    sorts = params.top_k or params.top_p < 1.0
    order = probabilities.argsort(descending=True) if sorts else torch.arange(len(row_V))
    reached = 0.0
    for token in order.tolist():
        reached += float(probabilities[token])
        if reached > uniform:
            return int(token)
    raise AssertionError


PARAMS = [
    SamplingParams(seed=1),
    SamplingParams(seed=1, temperature=0.3),
    SamplingParams(seed=2, top_k=7),
    SamplingParams(seed=3, top_k=400, temperature=5.0),
    SamplingParams(seed=4, top_p=0.9),
    SamplingParams(seed=5, top_p=0.99, temperature=4.0),
    SamplingParams(seed=6, top_p=0.8, top_k=300, temperature=4.0),
    SamplingParams(seed=7, min_p=0.05),
    SamplingParams(seed=8, min_p=0.02, top_p=0.95, top_k=50),
    SamplingParams(seed=9, presence_penalty=1.5, frequency_penalty=-0.5),
    SamplingParams(seed=10, repetition_penalty=1.8, top_p=0.7),
    SamplingParams(seed=11, logit_bias={17: 20.0, 18: 19.0, 5: -100.0}),
    SamplingParams(seed=12, logit_bias={9: 8.0}, repetition_penalty=1.2, frequency_penalty=0.3, temperature=0.7),
]


@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_each_row_equals_its_readable_twin_alone_and_in_a_batch(sample: Sample, spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        logits_BV = torch.randn(len(PARAMS), VOCABULARY, generator=generator) * spread
        states = [state_of(params) for params in PARAMS]
        together = [choice.token for choice in sample(logits_BV.clone(), states) if choice]
        alone, twins = [], []
        for row, params in enumerate(PARAMS):
            (choice,) = sample(logits_BV[row : row + 1].clone(), [state_of(params)])
            assert choice is not None
            alone.append(choice.token)
            twins.append(twin(logits_BV[row], params, state_of(params).uniform()))
        assert together == alone == twins


def test_greedy_rows_take_the_largest_logit_after_bias_and_penalties(sample: Sample) -> None:
    logits_BV = torch.zeros(4, VOCABULARY)
    logits_BV[:, 9], logits_BV[:, 30] = 2.0, 1.9
    params = [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=0.0, presence_penalty=0.2),
        SamplingParams(temperature=0.0, logit_bias={4: 3.0}),
        SamplingParams(top_k=1, temperature=2.0),
    ]
    assert [choice.token for choice in sample(logits_BV, [state_of(one) for one in params]) if choice] == [9, 30, 4, 9]


@pytest.mark.parametrize("params", [SamplingParams(temperature=0.8), SamplingParams(temperature=0.8, top_p=0.9)])
def test_the_frequencies_are_those_of_the_distribution(sample: Sample, params: SamplingParams) -> None:
    row_V = torch.randn(40, generator=torch.Generator().manual_seed(3)) * 2
    draws, rows = 20_000, 500
    state = SamplingState(SamplingParams(**{**_fields(params), "seed": 1}), [])
    counts = torch.zeros(40)
    for _ in range(draws // rows):
        for choice in sample(row_V.expand(rows, -1).clone(), [state] * rows):
            assert choice is not None
            counts[choice.token] += 1
    plain = SamplingParams(temperature=params.temperature, top_p=params.top_p)
    expected = processed(row_V, plain).float() * draws
    assert counts[expected == 0].sum() == 0
    likely = expected > 5
    statistic = float(((counts - expected)[likely] ** 2 / expected[likely]).sum())
    freedom = int(likely.sum()) - 1
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)  # five standard deviations of chi-squared


def _fields(params: SamplingParams) -> dict[str, float]:
    return {"temperature": params.temperature, "top_p": params.top_p}


def test_log_probabilities_are_the_models_own_whatever_is_done_to_the_logits(sample: Sample) -> None:
    logits_BV = torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(1))
    raw = logits_BV.log_softmax(dim=-1)
    params = [
        SamplingParams(temperature=0.2, logprobs=3, seed=1, logit_bias={7: 50.0}),
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=0.0, logprobs=0),
    ]
    first, second, third = sample(logits_BV.clone(), [state_of(one) for one in params])
    assert first
    assert second
    assert third
    assert first.token == 7
    assert first.logprob == pytest.approx(float(raw[0, 7]))
    values, tokens = raw[0].topk(3)
    assert [token for token, _ in first.alternatives] == tokens.tolist()
    assert [value for _, value in first.alternatives] == pytest.approx(values.tolist())
    assert second.logprob is None
    assert third.logprob == pytest.approx(float(raw[2].max()))
    assert third.alternatives == ()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_not_finite_gets_no_token_and_leaves_the_others_alone(sample: Sample, bad: float) -> None:
    for params in (SamplingParams(temperature=0.0), SamplingParams(seed=1), SamplingParams(seed=1, top_p=0.5)):
        logits_BV = torch.randn(2, VOCABULARY, generator=torch.Generator().manual_seed(1))
        (alone,) = sample(logits_BV[1:].clone(), [state_of(params)])
        logits_BV[0, 10] = bad
        first, second = sample(logits_BV, [state_of(params), state_of(params)])
        assert first is None
        assert second == alone


def test_masked_tokens_are_never_drawn(sample: Sample) -> None:
    logits_BV = torch.full((1, 300), -math.inf)
    logits_BV[0, 123] = 0.5
    for params in (SamplingParams(), SamplingParams(top_p=0.9), SamplingParams(top_k=20), SamplingParams(min_p=0.1)):
        (choice,) = sample(logits_BV.clone(), [SamplingState(params, [])])
        assert choice
        assert choice.token == 123


def test_a_seed_fixes_the_numbers_and_none_does_not() -> None:
    def numbers(seed: int | None) -> list[float]:
        state = SamplingState(SamplingParams(seed=seed), [])
        return [state.uniform() for _ in range(4)]

    assert numbers(5) == numbers(5) != numbers(6)
    assert numbers(None) != numbers(None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("top_p", 1.1),
        ("top_k", -1),
        ("min_p", 2.0),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5),
        ("repetition_penalty", 0.0),
        ("logit_bias", {1: 200.0}),
        ("stop", ("",)),
        ("stop", ("x",) * 17),
        ("logprobs", 21),
    ],
)
def test_impossible_parameters_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidRequestError, match=field):
        SamplingParams(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"seed": 3}, {"seed": 4, "top_p": 0.9}])
def test_banned_tokens_are_not_chosen(sample: Sample, params: dict[str, float]) -> None:
    states = [SamplingState(SamplingParams(**params), []) for _ in range(2)]
    states[1].banned = [3, 4]
    logits = torch.full((2, 300), -5.0)
    logits[:, 3], logits[:, 4], logits[:, 5] = 30.0, 29.0, 28.0
    free, bound = sample(logits, states)
    assert free is not None
    assert bound is not None
    assert free.token in (3, 4)
    assert bound.token == 5
