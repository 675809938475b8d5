"""Requests made from the OpenAPI document itself, well-formed and not: whatever comes, no answer is a 5xx."""

import contextlib

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

schemathesis = pytest.importorskip("schemathesis")


def operations(served):
    with served.client() as client:
        document = client.get("/openapi.json").json()
    return [result.ok() for result in schemathesis.openapi.from_dict(document).get_all_operations()]


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_no_request_makes_a_5xx(served, mode):
    generation = schemathesis.GenerationMode[mode]
    asked = 0
    for operation in operations(served):
        strategy = operation.as_strategy(generation_mode=generation)

        @settings(
            max_examples=8,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=strategy)
        def ask(case):
            nonlocal asked
            asked += 1
            response = case.call(base_url=served.url)
            assert response.status_code < 500, (case.path, case.body, response.text[:500])

        with contextlib.suppress(Unsatisfiable):  # a route without parameters has no wrong ones
            ask()
    assert asked > 20


DEEP = "[" * 50_000 + "]" * 50_000


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": [f"stop {number}" for number in range(10_000)]},
        {"stop": "x" * 1_000_000},
        {"messages": [{"role": "user", "content": "a"}] * 5000},
        {"tools": [{"type": "function", "function": {"name": f"f{number}"}} for number in range(1000)]},
        {"logit_bias": {str(number): 1 for number in range(5000)}},
        {"model": "../../etc/passwd"},
        {"model": "x" * 10_000},
        {"max_tokens": 10**30},
        {"temperature": 1e400},
        {"seed": 2**70},
        {"n": 10**6},
        {"user_id": "x" * 600},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"uniqueItems": True}}}},
    ],
    ids=lambda fields: next(iter(fields)),
)
@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/responses"])
def test_absurd_values_are_refused_at_once(served, fields, path):
    base = {"/chat/completions": {"messages": [{"role": "user", "content": "a"}]}, "/completions": {"prompt": "a"}}
    body = {"model": "deepseek-chat", **base.get(path, {"input": "a"}), **fields}
    if body.get("temperature") == float("inf"):
        body["temperature"] = 1e300
    with served.client() as client:
        response = client.post(path, json=body)
    assert response.status_code in (400, 413, 422)
    assert len(response.text) < 2000
    assert served.engine.tickets == []


@pytest.mark.parametrize(
    "body",
    [
        f'{{"model": "deepseek-chat", "messages": {DEEP}}}'.encode(),
        b'{"model": "deepseek-chat", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "deepseek-chat", "messages": [{"role": "user", "content": "\\u0000"}]}',
        b'{"model": "deepseek-chat", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
        b'{"model": "deepseek-chat", "seed": ' + b"9" * 100_000 + b"}",
    ],
    ids=["deep", "surrogate", "NUL", "no UTF-8", "a long number"],
)
@pytest.mark.parametrize("path", ["/chat/completions", "/responses", "/anthropic/v1/messages"])
def test_hostile_bytes(served, body, path):
    with served.client() as client:
        response = client.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    assert served.engine.tickets == []


@given(value=st.recursive(st.none() | st.booleans() | st.text(max_size=5), lambda one: st.lists(one, max_size=3)))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_in_any_field(served, value):
    with served.client() as client:
        for field in ("messages", "tools", "tool_choice", "response_format", "stop", "thinking", "model"):
            body = {"model": "deepseek-chat", "messages": [{"role": "user", "content": "a"}], field: value}
            assert client.post("/chat/completions", json=body).status_code < 500
