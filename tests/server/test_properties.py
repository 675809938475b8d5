"""Properties: any bytes are refused in the dialect or read, and a whole answer is the sum of its stream."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.engine import Finished, Timings, TokenLogprobs, Usage
from fathom.server.bodies import parse_object
from fathom.server.deepseek.chunks import ChatChunks
from fathom.server.deepseek.fields import ChatFields, CompletionFields, validated
from fathom.server.errors import ApiError
from fathom.text import Answer, Thought

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
MESSAGE = st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "prefix", "name"]), JSON | st.just("user"))
FORMS = [ChatFields, CompletionFields]


def value_or_refusal(function, *arguments):
    try:
        return function(*arguments)
    except ApiError as error:
        json.dumps(error.body()).encode()
        return error


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_an_object_or_a_refusal(body):
    value = value_or_refusal(parse_object, body, 64)
    assert isinstance(value, dict) or value.status == 400


@settings(max_examples=300)
@given(st.sampled_from(FORMS), st.data())
def test_any_object_is_a_request_or_a_refusal(form, data):
    names = st.sampled_from([*form.model_fields, "unknown"])
    body = data.draw(st.dictionaries(names, JSON | st.lists(MESSAGE, max_size=2), max_size=6))
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **body}
    value = value_or_refusal(validated, form, body)
    assert isinstance(value, form) or (value.status == 422 and value.message)


CHOICE = st.tuples(st.lists(st.text(min_size=1, max_size=3), max_size=3), st.lists(st.text(min_size=1, max_size=3)))


@given(st.lists(CHOICE, min_size=1, max_size=3), st.randoms(use_true_random=False), st.booleans())
def test_the_sum_of_the_chunks_is_what_the_engine_said(choices, random, include_usage):
    queues = []
    for thoughts, answers in choices:
        usage = Usage(4, 0, len(thoughts) + len(answers), len(thoughts))
        said = [*map(Thought, thoughts), *map(Answer, answers)]
        events = [one for event in said for one in (logprob(event), event)]
        queues.append([*events, Finished("stop", usage, Timings(None, None, 0.0, None, None))])
    maker = ChatChunks("m", "fp", lambda token: chr(token).encode(), n=len(choices), include_usage=include_usage)
    chunks = []
    while any(queues):
        index = random.choice([index for index, queue in enumerate(queues) if queue])
        chunks += maker.chunks(index, queues[index].pop(0))
    whole = maker.whole(json.loads(json.dumps(chunks)))
    for (thoughts, answers), choice in zip(choices, whole["choices"], strict=True):
        assert choice["message"]["content"] == "".join(answers)
        assert choice["message"].get("reasoning_content", "") == "".join(thoughts)
        assert choice["finish_reason"] == "stop"
        entries = choice["logprobs"] or {}
        assert len(entries.get("content") or ()) == len(answers)
        assert len(entries.get("reasoning_content") or ()) == len(thoughts)
    assert whole["usage"]["completion_tokens"] == sum(len(thoughts) + len(answers) for thoughts, answers in choices)


def logprob(event):
    return TokenLogprobs(ord("x"), -1.0, (), thought=isinstance(event, Thought))


def test_a_warning_may_name_a_model_in_any_script(served):
    served.engine.model_name = served.service.model_name = "模型"
    served.engine.template.thinks = False
    assert "cannot think" in served.chat(model="deepseek-reasoner").headers["x-fathom-warning"]


@pytest.mark.parametrize("form", FORMS)
def test_the_documented_form_is_valid_json_schema(form):
    schema = form.model_json_schema()
    assert schema["additionalProperties"] is False
    assert "model" in schema["required"]
