"""Chat completions as clients see them: both forms, every field, every refusal."""

import json
from typing import Any

import httpx
import pytest

from fathom.engine import TokenLogprobs
from fathom.engine.errors import QueueFull
from fathom.text import Answer, Thought, ToolCallArguments, ToolCallEnd, ToolCallStart


def sse(response: httpx.Response) -> list[Any]:
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_whole_answer(served):
    response = served.chat()
    assert response.status_code == 200
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "deepseek-chat"
    assert body["system_fingerprint"].startswith("fp_")
    choice = body["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "hello there "}
    assert choice["finish_reason"] == "stop"
    assert body["usage"] == {
        "prompt_tokens": 11,
        "completion_tokens": 2,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
        "prompt_cache_hit_tokens": 0,
        "prompt_cache_miss_tokens": 11,
    }


def test_stream_of_a_thinking_model(served):
    chunks = sse(served.chat(model="deepseek-reasoner", stream=True))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": None, "reasoning_content": ""},
        {"content": None, "reasoning_content": "Let me "},
        {"content": None, "reasoning_content": "think."},
        {"content": "hello "},
        {"content": "there "},
        {"content": ""},
    ]
    assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in chunks}) == 1
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 5 + ["stop"]
    assert "usage" not in chunks[0]
    assert chunks[-1]["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2


def test_include_usage_adds_a_last_chunk_without_choices(served):
    chunks = sse(served.chat(stream=True, stream_options={"include_usage": True}))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 13
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


@pytest.mark.parametrize("prefix", ["", "/v1", "/beta"])
def test_every_prefix_answers(served, prefix):
    with served.client() as client:
        body = {"model": "scripted:1b", "messages": [{"role": "user", "content": "x"}]}
        assert client.post(f"{prefix}/chat/completions", json=body).status_code == 200
        assert client.get(f"{prefix}/models").json()["data"][0]["id"] == "scripted:1b"


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({"model": "deepseek-chat"}, False),
        ({"model": "deepseek-reasoner"}, True),
        ({"model": "deepseek-v4-flash"}, True),
        ({"model": "scripted:1b"}, True),
        ({"model": "deepseek-v4-pro", "thinking": {"type": "disabled"}}, False),
        ({"model": "deepseek-reasoner", "thinking": {"type": "disabled"}}, False),
        ({"model": "deepseek-chat", "thinking": {"type": "enabled"}}, True),
        ({"model": "scripted:1b", "reasoning_effort": "none"}, False),
        ({"model": "scripted:1b", "reasoning_effort": "high"}, True),
    ],
)
def test_what_decides_about_thinking(served, fields, thinking):
    assert served.chat(**fields).status_code == 200
    assert served.engine.template.rendered[-1][2] is thinking


def test_a_model_that_cannot_think_says_so(served):
    served.engine.template.thinks = False
    response = served.chat(model="deepseek-reasoner")
    assert response.json()["choices"][0]["message"]["content"] == "hello there "
    assert "cannot think" in response.headers["x-fathom-warning"]
    assert served.engine.template.rendered[-1][2] is False


def test_every_sampling_field_reaches_the_engine(served):
    served.chat(
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        min_p=0.1,
        frequency_penalty=0.2,
        presence_penalty=-0.3,
        repetition_penalty=1.1,
        logit_bias={"65": 2},
        seed=3,
        stop=["a", "b"],
        logprobs=True,
        top_logprobs=4,
        user_id="someone-1",
    )
    request = served.engine.tickets[-1].request
    params = request.params
    assert (params.max_tokens, params.temperature, params.top_p, params.top_k, params.min_p) == (7, 0.5, 0.9, 5, 0.1)
    assert (params.frequency_penalty, params.presence_penalty, params.repetition_penalty) == (0.2, -0.3, 1.1)
    assert (dict(params.logit_bias), params.seed, params.stop, params.logprobs) == ({65: 2}, 3, ("a", "b"), 4)
    assert request.salt == "someone-1"


def test_defaults_are_deepseeks(served):
    served.chat()
    served.chat(model="deepseek-reasoner")
    chat, reasoner = (ticket.request.params for ticket in served.engine.tickets)
    assert (chat.temperature, chat.top_p, chat.max_tokens, chat.logprobs) == (1.0, 1.0, 4096, None)
    assert reasoner.max_tokens == 32768


def test_several_choices_have_seeds_of_their_own(served):
    body = served.chat(n=3, seed=5).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in body["choices"]} == {"hello there "}
    assert body["usage"]["prompt_tokens"] == 11
    assert body["usage"]["completion_tokens"] == 6
    assert sorted(ticket.request.params.seed for ticket in served.engine.tickets) == [5, 6, 7]


def test_tool_calls_stream_and_sum(served):
    served.engine.reason = "tool_calls"
    served.engine.script = lambda request: [
        Answer("Looking."),
        ToolCallStart(0, "call_00_a", "weather"),
        ToolCallArguments(0, '{"city":'),
        ToolCallArguments(0, '"Bern"}'),
        ToolCallEnd(0),
        ToolCallStart(1, "call_01_b", "time"),
        ToolCallArguments(1, "{}"),
        ToolCallEnd(1),
    ]
    tools = [
        {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}
    ]
    message = served.chat(tools=tools).json()["choices"][0]["message"]
    assert message["content"] == "Looking."
    assert [(call["id"], call["function"]) for call in message["tool_calls"]] == [
        ("call_00_a", {"name": "weather", "arguments": '{"city":"Bern"}'}),
        ("call_01_b", {"name": "time", "arguments": "{}"}),
    ]
    assert served.engine.template.rendered[-1][1][0].name == "weather"
    chunks = sse(served.chat(tools=tools, stream=True))
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    pieces = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert [piece["index"] for piece in pieces] == [0, 0, 0, 1, 1]
    served.chat(tools=tools, tool_choice="none")
    assert served.engine.template.rendered[-1][1] == []


def test_history_with_tools_and_prefix_reaches_the_template(served):
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
        {"role": "assistant", "content": "The", "prefix": True},
    ]
    assert served.chat(messages=messages).status_code == 200
    system, user, assistant, tool, prefix = served.engine.template.rendered[-1][0]
    assert (system.role, user.content, assistant.content, assistant.reasoning_content) == ("system", "ab", None, "hm")
    assert (assistant.tool_calls[0].id, tool.tool_call_id, prefix.prefix) == ("c1", "c1", True)


def test_logprobs_of_thought_and_answer(served):
    served.engine.script = lambda request: [
        TokenLogprobs(ord("T"), -0.5, ((ord("T"), -0.5), (ord("U"), -1.0)), thought=True),
        Thought("T"),
        TokenLogprobs(ord("é"), -0.25, (), thought=False),
        TokenLogprobs(ord("b"), -0.75, (), thought=False),
        Answer("éb"),
    ]
    whole = served.chat(logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]
    assert whole["reasoning_content"][0]["token"] == "T"
    assert [one["token"] for one in whole["reasoning_content"][0]["top_logprobs"]] == ["T", "U"]
    assert [(one["token"], one["bytes"]) for one in whole["content"]] == [("é", [195, 169]), ("b", [98])]
    chunks = sse(served.chat(logprobs=True, stream=True))
    with_logprobs = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["logprobs"]]
    assert [choice["delta"] for choice in with_logprobs] == [
        {"content": None, "reasoning_content": "T"},
        {"content": "éb"},
    ]


UNIQUE_TOOL = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"uniqueItems": True}}}}
UNIQUE = {"name": "x", "schema": UNIQUE_TOOL["parameters"]}
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"model": "gpt-9"}, 400, "Model Not Exist"),
        ({"messages": []}, 422, "messages"),
        ({"messages": None}, 422, "messages: Field required"),
        ({"temperature": 2.1}, 422, "temperature"),
        ({"temperature": "1"}, 422, "temperature"),
        ({"top_p": 0}, 422, "top_p"),
        ({"max_tokens": 0}, 422, "max_tokens"),
        ({"max_tokens": 2**40}, 422, "max_tokens"),
        ({"max_tokens": True}, 422, "max_tokens"),
        ({"n": 17}, 422, "n:"),
        ({"stop": ["x"] * 17}, 422, "at most 16"),
        ({"stop": [""]}, 422, "stop[0]"),
        ({"top_logprobs": 21, "logprobs": True}, 422, "top_logprobs"),
        ({"top_logprobs": 2}, 422, "needs logprobs"),
        ({"logit_bias": {"a": 1}}, 422, "token ids"),
        ({"logit_bias": {"1": 101}}, 422, "logit_bias.1"),
        ({"stream_options": {"include_usage": True}}, 422, "stream_options"),
        ({"frobnicate": 1}, 422, "'frobnicate'"),
        ({"functions": []}, 422, "'functions'"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 422, "messages[0]"),
        ({"messages": [{"role": "user", "content": "x", "tool_call_id": "y"}]}, 422, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 422, "'text'"),
        ({"messages": [{"role": "assistant", "prefix": True}, {"role": "user", "content": "x"}]}, 422, "prefix"),
        ({"response_format": {"type": "json_schema"}}, 422, "json_schema is given exactly when"),
        ({"response_format": {"type": "json_schema", "json_schema": UNIQUE}}, 400, "cannot be followed"),
        ({"tool_choice": "required"}, 422, "there are no tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": [TOOL]}, 422, "not among the tools"),
        ({"tools": [{"type": "function", "function": {**UNIQUE_TOOL, "strict": True}}]}, 400, "cannot be followed"),
        ({"tools": [{"type": "function", "function": {"name": "f g"}}]}, 422, "tools[0].function.name"),
        ({"user_id": "a b"}, 422, "user_id"),
        ({"messages": [{"role": "user", "content": "TEMPLATE FAILS"}]}, 400, "ask differently"),
        ({"messages": [{"role": "user", "content": "MESSAGE FAILS"}]}, 400, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x" * 9000}]}, 400, "shorten it"),
    ],
)
def test_refusals_say_what_to_change(served, fields, status, says):
    response = served.chat(**fields)
    error = response.json()["error"]
    assert (response.status_code, set(error)) == (status, {"message", "type", "param", "code"})
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"
    assert served.engine.tickets == []


@pytest.mark.parametrize("name", ["user", "store", "metadata", "service_tier"])
def test_fields_that_cannot_change_an_answer_are_taken(served, name):
    assert served.chat(**{name: {"a": "b"} if name == "metadata" else True}).status_code == 200


def constraint(served):
    constraint = served.engine.tickets[-1].request.constraint
    return None if constraint is None else constraint.grammar


def test_the_form_asked_for_reaches_the_engine(served):
    served.chat()
    assert constraint(served) is None
    served.chat(response_format={"type": "json_object"})
    assert constraint(served).begins == "answer"
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}}
    served.chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert '"age"' in constraint(served).source
    told = served.engine.template.rendered[-1][0][0]
    assert (told.role, json.dumps(schema) in told.content) == ("system", True)


def test_tool_choice_reaches_the_engine(served):
    two = [TOOL, {"type": "function", "function": UNIQUE_TOOL | {"name": "g"}}]
    served.chat(tools=[TOOL])
    assert (constraint(served).begins, constraint(served).repeats) == ("call", True)
    served.chat(tools=[TOOL], parallel_tool_calls=False)
    assert (constraint(served).begins, constraint(served).repeats) == ("call", False)
    served.chat(tools=two, tool_choice="required")  # a schema that cannot be followed, and nobody was promised it
    assert constraint(served).begins == "answer"
    assert all(name in constraint(served).source for name in ('"f\\"', '"g\\"'))
    served.chat(tools=two, tool_choice={"type": "function", "function": {"name": "f"}})
    assert '"g\\"' not in constraint(served).source
    served.chat(tools=two, tool_choice="none")
    assert constraint(served) is None


def test_null_means_not_given(served):
    assert served.chat(temperature=None, stop=None, tools=None, stream=None, frobnicate=None).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue_is_refused_before_the_headers(served, stream):
    served.engine.refuse = QueueFull("512 requests wait already")
    response = served.chat(stream=stream)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert "512 requests wait" in response.json()["error"]["message"]


def test_an_engine_that_fails_midway(served):
    served.engine.reason = "error"
    response = served.chat()
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    chunks = sse(served.chat(stream=True))
    assert chunks[-2]["choices"][0]["finish_reason"] == "insufficient_system_resource"
    assert "failed" in chunks[-1]["error"]["message"]


def test_streamed_and_whole_answers_are_equal(served):
    whole = served.chat(model="deepseek-reasoner", n=2).json()
    chunks = sse(served.chat(model="deepseek-reasoner", n=2, stream=True))
    for choice in whole["choices"]:
        deltas = [one["delta"] for chunk in chunks for one in chunk["choices"] if one["index"] == choice["index"]]
        for field in ("content", "reasoning_content"):
            assert choice["message"][field] == "".join(delta.get(field) or "" for delta in deltas)
    assert chunks[-1]["usage"] == whole["usage"]
