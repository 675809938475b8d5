"""Speculation changes no token: every engine here answers the same with it and without, whatever drafts are like."""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fathom.engine import Engine, SamplingParams, SequenceStep
from fathom.engine.prompt_lookup import LONGEST, SHORTEST, PromptLookup
from fathom.engine.runner import Continuation
from fathom.engine.speculation import Acceptance, Draft, Drafting, StepBudget
from fathom.engine.stats import EngineLimits
from fathom.engine.step_cost import StepCost
from fathom.engine.torch_runner import TorchRunner
from fathom.models.cache import NoCache
from fathom.models.config import ModelConfig
from fathom.models.transformer import Transformer

MakeEngine = Callable[..., Engine]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draft is verified in full, whether it pays or not."""
    monkeypatch.setattr(StepBudget, "worth", property(lambda _: 0.0))


def lookup_twin(tokens: Sequence[int], count: int) -> tuple[int, list[int]]:
    """Readable: the longest end of the tokens that occurred before, where it last did, and what followed it there."""
    for length in range(min(LONGEST, len(tokens) - 1), SHORTEST - 1, -1):
        for end in range(len(tokens) - 1, length - 1, -1):
            if list(tokens[end - length : end]) == list(tokens[-length:]):
                grown = list(tokens)
                while len(grown) < end + count:
                    grown.append(grown[end + (len(grown) - end) % (len(tokens) - end)])
                return length, grown[end : end + count]
    return 0, []


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(1, 20), st.data())
@settings(max_examples=200, deadline=None)
def test_the_lookup_finds_the_longest_and_latest_match(tokens: list[int], count: int, data: st.DataObject) -> None:
    lookup = PromptLookup()
    lookup.follow(tokens[: data.draw(st.integers(0, len(tokens)))])
    lookup.follow(tokens)
    assert lookup.find(count) == lookup_twin(tokens, count)


def test_the_lookup_grows_with_a_long_sequence() -> None:
    tokens = list(range(1000)) * 3
    lookup = PromptLookup()
    for end in (10, 1024, 1025, 2900):
        lookup.follow(tokens[:end])
    assert lookup.find(5) == (LONGEST, tokens[2900:2905])


def test_what_a_row_costs_is_learnt_and_follows_a_change() -> None:
    cost = StepCost()
    cost.observe(1, 0, 0.004)
    assert cost.row_seconds == pytest.approx(0.0004)  # assumed, before steps of different sizes were seen
    for rows in (1, 4, 8, 2) * 20:
        cost.observe(rows, 0, 0.003 + 0.001 * rows)
    assert cost.row_seconds == pytest.approx(0.001, rel=0.05)
    assert cost.seconds(16) == pytest.approx(0.019, rel=0.05)
    for rows in (1, 4, 8, 2) * 40:
        cost.observe(rows, 0, 0.001 + 0.003 * rows)
    assert cost.row_seconds == pytest.approx(0.003, rel=0.05)
    before = cost.seconds(1)
    cost.observe(1, 0, 10.0)
    assert cost.seconds(1) < 1.2 * before  # a hiccup


def test_what_a_prompts_token_costs_is_what_a_step_took_beyond_its_rows() -> None:
    cost = StepCost()
    assert cost.prompt_tokens(1, 2.5) is None
    for _ in range(10):
        cost.observe(1, 0, 0.004)
    assert cost.prompt_tokens(1, 2.5) is None
    for _ in range(20):
        cost.observe(1, 100, 0.004 + 100 * 0.0005)
    assert cost.prompt_seconds == pytest.approx(0.0005)
    assert cost.prompt_tokens(1, 2.5) == 12  # 12 half milliseconds are one and a half steps
    assert cost.prompt_tokens(0, 2.5) is None  # nobody waits
    for _ in range(20):
        cost.observe(0, 256, 256 * 0.002)  # deep in a long prompt
    assert cost.prompt_tokens(1, 2.5) == 3


def budget_of(fixed: float, per_row: float, rows: int) -> StepBudget:
    cost = StepCost()
    for size in (1, 2, 4, 8) * 10:
        cost.observe(size, 0, fixed + per_row * size)
    return StepBudget(cost, rows, rows)


def test_drafts_are_long_where_rows_are_cheap_and_none_where_they_cost_a_step() -> None:
    drafting, draft = Drafting(), Draft(tuple(range(20)), "lookup 6+")
    cheap = budget_of(0.01, 0.0001, 1).choose(drafting, [draft])
    dearer = budget_of(0.004, 0.001, 1).choose(drafting, [draft])
    assert cheap is not None
    assert dearer is not None
    assert 20 >= len(cheap.tokens) > len(dearer.tokens) > 1
    dear = budget_of(0.0001, 0.01, 8)
    chosen = [dear.choose(drafting, [draft]) for _ in range(40)]
    lengths = [0 if one is None else len(one.tokens) for one in chosen]
    assert set(lengths) == {0, 1}  # only a probe now and then, ever more rarely
    assert sum(lengths) < 6


def test_a_kind_of_draft_that_fails_is_left_alone_and_taken_up_again_when_it_is_right() -> None:
    drafting, draft = Drafting(), Draft((1, 2, 3, 4), "lookup 3-5")

    def step(right: bool) -> int:
        chosen = budget_of(0.004, 0.001, 1).choose(drafting, [draft])
        if chosen is None:
            return 0
        drafting.observe(chosen, len(chosen.tokens) if right else 0)
        return len(chosen.tokens)

    failing = [step(False) for _ in range(200)]
    assert sum(failing[100:]) <= 2
    recovering = [step(True) for _ in range(400)]
    assert recovering[-1] == 4
    assert (drafting.drafted, drafting.accepted) == (sum(failing) + sum(recovering), sum(recovering))


def test_acceptance_forgets() -> None:
    acceptance = Acceptance(0.5)
    for _ in range(30):
        acceptance.observe(4, 4)
    assert acceptance.rate > 0.95
    for _ in range(10):
        acceptance.observe(4, 0)
    assert acceptance.rate < 0.35


def predictable(context: Sequence[int]) -> int:
    """Mostly what stood four tokens before, now and then something new: drafts are partly right."""
    salt = (len(context) * 7919 + sum(context[-3:])) % 11
    return (context[-1] + salt) % 5 if salt < 3 or len(context) < 4 else context[-4]


class GuessingRunner:
    """A mock whose prediction modules guess, right or wrong as `right` says."""

    def __new__(cls, mock: Any, right: Callable[[], bool], **options: Any) -> Any:
        class Guessing(mock.Runner):  # type: ignore[name-defined, misc]
            max_draft = 2

            def step(self, sequences: Sequence[SequenceStep]) -> torch.Tensor:
                self.last = [(list(one.tokens), one.start, list(one.pages)) for one in sequences]
                return super().step(sequences)  # type: ignore[no-any-return]

            def draft(self, continuations: Sequence[Continuation]) -> list[list[int]]:
                return [self._guess(*last, one) for last, one in zip(self.last, continuations, strict=True)]

            def _guess(self, tokens: list[int], start: int, pages: list[int], one: Continuation) -> list[int]:
                if not one.kept:
                    return []
                assert one.following
                assert one.kept <= len(tokens)
                context = [
                    self.pages[pages[p // self.page_tokens]][p % self.page_tokens] for p in range(start + one.kept)
                ]
                context += one.following
                guess: list[int] = []
                for _ in range(one.wanted):
                    guess.append(self.script([*context, *guess]) if right() else 255)
                return guess

        return Guessing(predictable, **options)


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_token_depends_on_speculation(eager: None, mock: Any, data: st.DataObject) -> None:
    """Any batch, chunking, cache state and number of pages; drafts from the text and from modules, good and bad."""
    kind = data.draw(st.sampled_from(["lookup", "modules"]))
    options = {"n_pages": data.draw(st.integers(8, 40), "pages"), "page_tokens": 4, "max_context": 32}
    luck = random.Random(data.draw(st.integers(0, 9)))
    runner = mock.Runner(predictable, **options)
    if kind == "modules":
        runner = GuessingRunner(mock, lambda: luck.random() < 0.7, **options)
    prompt = st.lists(st.sampled_from([1, 2]), min_size=1, max_size=20)
    requests = data.draw(st.lists(st.tuples(prompt, st.integers(1, 11)), min_size=1, max_size=10), "requests")
    limits = EngineLimits(max_step_tokens=data.draw(st.integers(4, 40)), max_running=data.draw(st.integers(1, 4)))
    with Engine(runner, mock.tokenizer(), None, model_name="mock", limits=limits) as engine:  # type: ignore[arg-type]
        with ThreadPoolExecutor(len(requests)) as pool:
            asked = [
                pool.submit(engine.generate, prompt=ids, max_tokens=count, temperature=0.0) for ids, count in requests
            ]
        for (ids, count), one in zip(requests, asked, strict=True):
            assert one.result().tokens == mock.expected(ids, count, predictable)
        load = engine.stats().load
        assert load.pages_held == 0
        assert load.counts.failed_steps == 0
        assert load.counts.accepted_tokens <= load.counts.drafted_tokens


def test_fewer_steps_are_taken_and_counted(eager: None, make_engine: MakeEngine, mock: Any) -> None:
    runner = mock.Runner(lambda context: context[len(context) % 7])
    engine = make_engine(runner)
    finished = engine.generate(prompt=[5, 1, 4, 2, 3, 9, 8], max_tokens=200, temperature=0.0).finished
    counts = engine.stats().load.counts
    assert counts.steps < 40
    assert finished.usage.completion_tokens == 200
    assert 160 < finished.usage.accepted_tokens <= finished.usage.drafted_tokens
    assert (counts.drafted_tokens, counts.accepted_tokens) == (
        finished.usage.drafted_tokens,
        finished.usage.accepted_tokens,
    )
    off = Engine(mock.Runner(predictable), mock.tokenizer(), None, model_name="off", speculation="off")  # type: ignore[arg-type]
    with off:
        assert off.generate(prompt=[1, 2] * 9, max_tokens=50, temperature=0.0).finished.usage.drafted_tokens == 0


def test_rejected_tokens_are_never_published(eager: None, make_engine: MakeEngine, mock: Any) -> None:
    """A draft that fills a page and is rejected leaves nothing behind that a later prompt could find."""
    prompt = [1, 2, 3, 4, 5, 6, 1, 2, 3]  # what follows 1 2 3 is guessed to be 4 5 6, and is not
    runner = mock.Runner(lambda context: 99 if len(context) == 9 else mock.hashed(context), page_tokens=4)
    engine = make_engine(runner)
    engine.generate(prompt=prompt, max_tokens=3, temperature=0.0)
    wrong = [*prompt, 4, 5, 6, 7]
    assert max(len(step) for step in runner.steps) == 1
    again = engine.generate(prompt=wrong, max_tokens=1, temperature=0.0)
    assert again.finished.usage.cached_tokens == 8  # the two pages of the prompt itself
    assert again.tokens == mock.expected(wrong, 1)


def test_modules_that_fail_are_done_without(
    eager: None, make_engine: MakeEngine, mock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> bool:
        raise RuntimeError("no luck")

    engine = make_engine(GuessingRunner(mock, fail))
    assert engine.generate(prompt=[1], max_tokens=30, temperature=0.0).tokens == mock.expected([1], 30, predictable)
    assert [record.message for record in caplog.records].count(
        "the model's prediction modules failed; the engine goes on without them"
    ) == 1


def test_modules_that_are_always_wrong_are_given_up(make_engine: MakeEngine, mock: Any) -> None:
    engine = make_engine(GuessingRunner(mock, lambda: False, max_context=1000))
    finished = engine.generate(prompt=[1], max_tokens=900, temperature=0.0).finished
    assert finished.tokens == mock.expected([1], 900, predictable)


# Real models ----------------------------------------------------------------------------------------------------------

ARCHITECTURES = ("llama", "qwen2", "deepseek_v2", "deepseek_v3")
OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.0, "repetition_penalty": 1.3, "logprobs": 2},
    {"seed": 1},
    {"seed": 2, "temperature": 0.7, "top_p": 0.8, "logprobs": 0},
    {"seed": 3, "top_k": 3, "presence_penalty": 0.5, "frequency_penalty": 0.3},
    {"seed": 4, "min_p": 0.2, "logit_bias": {65: 4.0, 66: 4.0}},
    {"seed": 5, "temperature": 0.5, "stop": ("AB", "BBB"), "logit_bias": {65: 9.0, 66: 9.0}},
]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_answers_of_real_models_are_the_same_in_every_respect(
    eager: None, tiny_models: dict[str, Transformer], mock: Any, name: str
) -> None:
    """Tokens, text, log probabilities, ends: with penalties, bias, stop strings and all kinds of sampling."""
    prompts = [[1, 2, 3, 4, 5] * 4, [7] * 30, list(range(40))]
    answers: dict[str, list[Any]] = {}
    drafted = 0
    for mode in ("off", "auto"):
        runner = TorchRunner(tiny_models[name], n_pages=40, max_context=512, page_tokens=16)
        with Engine(runner, mock.tokenizer(), None, model_name=mode, speculation=mode) as engine:  # type: ignore[arg-type]
            answers[mode] = [
                engine.generate(prompt=prompt, max_tokens=30, **options) for prompt in prompts for options in OPTIONS
            ]
            drafted = engine.stats().load.counts.drafted_tokens
    assert drafted > 100
    for off, on in zip(answers["off"], answers["auto"], strict=True):
        assert (on.tokens, on.content, on.finished.reason, on.finished.stop_string) == (
            off.tokens, off.content, off.finished.reason, off.finished.stop_string,
        )  # fmt: skip
        assert [one.token for one in on.logprobs] == [one.token for one in off.logprobs]
        assert [one.logprob for one in on.logprobs] == pytest.approx([one.logprob for one in off.logprobs], abs=1e-4)


def test_thought_budgets_hold(eager: None, make_engine: MakeEngine, mock: Any) -> None:
    def script(context: Sequence[int]) -> int:
        return mock.eos if context[-1] == ord("!") else ord("!") if mock.think_end in context else ord("t")

    engine = make_engine(mock.Runner(script))
    for bound in range(1, 12):
        completion = engine.generate("q", thinking=True, temperature=0.0, max_thought_tokens=bound, max_tokens=50)
        assert (completion.reasoning_content, completion.content.strip(), completion.finished.reason) == (
            "t" * bound,
            "!",
            "stop",
        )
    assert engine.stats().load.counts.accepted_tokens > 0


def with_modules(modules: int) -> Transformer:
    config = {
        "model_type": "deepseek_v3", "vocab_size": 260, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "initializer_range": 0.3, "tie_word_embeddings": False,
        "hidden_act": "silu", "kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
        "v_head_dim": 8, "moe_intermediate_size": 16, "n_routed_experts": 8, "n_shared_experts": 1,
        "num_experts_per_tok": 2, "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 2, "topk_group": 1,
        "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": True, "routed_scaling_factor": 2.5,
        "num_nextn_predict_layers": modules,
    }  # fmt: skip
    model = Transformer(ModelConfig.from_hf(config))
    model.initialise(torch.Generator().manual_seed(7))
    return model.eval()


@torch.no_grad()
def guesses_of_the_whole(model: Transformer, tokens: Sequence[int]) -> list[int]:
    """What the modules guess to follow `tokens`, from a forward over the whole, without any cache."""
    ids, guesses = list(tokens), list[int]()
    rows = len(ids) - 1  # the row before the last token is the last that the main model has run
    positions_N = torch.arange(rows)
    hidden_ND = model(torch.tensor(ids[:rows]), positions_N, NoCache(1, rows))
    for depth in range(len(model.mtp)):
        seen = torch.tensor([*ids, *guesses][depth + 1 : depth + 1 + rows])
        hidden_ND = model.predict_further(depth, hidden_ND, seen, positions_N, NoCache(1, rows))
        guesses.append(int(model.logits(hidden_ND[-1:]).argmax()))
    return guesses


@pytest.mark.parametrize("modules", [1, 2])
def test_module_drafts_are_those_of_a_whole_forward(modules: int) -> None:
    """Through chunks, rejected tokens and neighbours. With two modules, rows behind a wrong guess may differ."""
    model = with_modules(modules)
    runner = TorchRunner(model, n_pages=12, max_context=96, page_tokens=8)
    assert runner.max_draft == modules
    ids = torch.randint(0, 256, (60,), generator=torch.Generator().manual_seed(5)).tolist()
    pages, other = [7, 2, 5, 1, 8, 3, 10, 11], [4, 0]
    runner.step([SequenceStep(ids[:20], 0, pages, 20)])
    runner.draft([Continuation(20, ids[20 : 20 + modules], 0)])
    runner.step([SequenceStep([3], 0, other, 0), SequenceStep(ids[20:40], 20, pages, 19)])
    first, guessed = runner.draft([Continuation(1, [9], modules), Continuation(20, ids[40:41], modules)])
    assert first[0] == guesses_of_the_whole(model, [3, 9])[0]
    assert guessed == guesses_of_the_whole(model, ids[:41])
    runner.step([SequenceStep([ids[40], 200, 201], 40, pages, 0)])  # two rejected tokens
    (guessed,) = runner.draft([Continuation(1, ids[41:42], modules)])
    assert guessed[0] == guesses_of_the_whole(model, ids[:42])[0]
    runner.step([SequenceStep(ids[41:44], 41, pages, 0)])  # two accepted ones
    (guessed,) = runner.draft([Continuation(3, ids[44:45], modules)])
    assert guessed[0] == guesses_of_the_whole(model, ids[:45])[0]


def test_a_model_with_modules_answers_the_same(eager: None, make_engine: MakeEngine, mock: Any) -> None:
    model = with_modules(1)
    answers = {}
    for mode in ("off", "lookup", "auto"):
        runner = TorchRunner(model, n_pages=40, max_context=512, page_tokens=16)
        with Engine(runner, mock.tokenizer(), None, model_name=mode, speculation=mode) as engine:  # type: ignore[arg-type]
            with ThreadPoolExecutor(4) as pool:
                asked = [
                    pool.submit(engine.generate, prompt=[n, n + 1] * 20, max_tokens=40, ignore_eos=True, **options)
                    for n in range(4)
                    for options in ({"temperature": 0.0}, {"seed": n, "temperature": 0.3})
                ]
            answers[mode] = [one.result().tokens for one in asked]
    assert answers["off"] == answers["lookup"] == answers["auto"]


@pytest.mark.parametrize("params", [{"temperature": 0.8}, {"temperature": 0.8, "top_p": 0.9}, {"top_k": 4}])
def test_sampled_tokens_have_the_distribution_of_the_model(
    eager: None, make_engine: MakeEngine, mock: Any, params: dict[str, Any]
) -> None:
    """Chi-squared over pairs of tokens, whose second depends on the first, drafted all the way."""
    size = 6
    table = torch.randn(size, size, generator=torch.Generator().manual_seed(4))

    class Chain(mock.Runner):  # type: ignore[name-defined, misc]
        """A Markov chain: the next token's logits depend on the last token."""

        def step(self, sequences: Sequence[SequenceStep]) -> torch.Tensor:
            logits = torch.full((0, self.vocab_size), -math.inf)
            for one in sequences:
                rows = torch.full((len(one.tokens) - one.logits_from, self.vocab_size), -math.inf)
                rows[:, :size] = table[list(one.tokens[one.logits_from :])]
                logits = torch.cat([logits, rows])
            return logits

    engine = make_engine(Chain(max_context=4000))
    counts = torch.zeros(size, size)
    for seed in range(4):
        tokens = [0, *engine.generate(prompt=[0], max_tokens=1500, seed=seed, **params).tokens]
        for before, after in itertools.pairwise(tokens):
            counts[before, after] += 1
    assert engine.stats().load.counts.accepted_tokens > 500
    probabilities = filtered(table / params.get("temperature", 1.0), params)
    statistic, freedom = 0.0, 0
    for row in range(size):
        expected = probabilities[row] * counts[row].sum()
        assert counts[row][expected == 0].sum() == 0
        likely = expected > 5
        statistic += float(((counts[row] - expected)[likely] ** 2 / expected[likely]).sum())
        freedom += int(likely.sum()) - 1
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)


def filtered(logits: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
    probabilities = logits.softmax(dim=-1)
    for row in probabilities:
        order = row.argsort(descending=True)
        kept = params.get("top_k", len(row))
        before = row[order].cumsum(0) - row[order]
        dropped = order[(torch.arange(len(row)) >= kept) | (before >= params.get("top_p", 1.0))]
        row[dropped] = 0.0
    return probabilities / probabilities.sum(dim=-1, keepdim=True)


def test_the_numbers_of_rejected_rows_are_drawn_again() -> None:
    from fathom.engine.sampler import SamplingState

    plain, drawing = (SamplingState(SamplingParams(seed=3), []) for _ in range(2))
    expected = [plain.uniform() for _ in range(9)]
    got: list[float] = []
    for kept in (1, 3, 2, 3):
        rows = [state.uniform() for state in drawing.along([1, 2])]
        got += rows[:kept]
        drawing.give_back(3 - kept)
    assert got == expected
