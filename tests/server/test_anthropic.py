"""Anthropic's Messages: raw HTTP and the official client."""

import json

import anthropic
import pytest

from fathom.engine.errors import QueueFull
from fathom.text import Answer, Thought, ToolCallArguments, ToolCallEnd, ToolCallStart

ASK = {"model": "deepseek-chat", "max_tokens": 64, "messages": [{"role": "user", "content": "hello there"}]}
WEATHER = {"name": "weather", "description": "of a town", "input_schema": {"type": "object", "properties": {}}}
USES_TOOLS = [
    Thought("Two towns."),
    Answer("I look."),
    ToolCallStart(0, "call_a", "weather"),
    ToolCallArguments(0, '{"town": '),
    ToolCallArguments(0, '"Bern"}'),
    ToolCallEnd(0),
    ToolCallStart(1, "call_b", "weather"),
    ToolCallArguments(1, "{}"),
    ToolCallEnd(1),
]


@pytest.fixture
def client(served):
    with anthropic.Anthropic(base_url=f"{served.url}/anthropic", api_key="x", max_retries=0, timeout=20) as made:
        yield made


def post(served, path="messages", **fields):
    with served.client() as client:
        return client.post(f"/anthropic/v1/{path}", json={**ASK, **fields})


def events(response):
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = [block.split("\n") for block in response.text.split("\n\n") if block]
    parsed = [json.loads(data.removeprefix("data: ")) for _, data in blocks]
    assert [name for name, _ in blocks] == [f"event: {event['type']}" for event in parsed]
    return parsed


def test_a_whole_message(served):
    response = post(served)
    body = response.json()
    assert body.pop("id").startswith("msg_")
    assert response.headers["request-id"].startswith("req_")
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "deepseek-chat",
        "content": [{"type": "text", "text": "hello there "}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 11,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 2,
            "output_tokens_details": {"thinking_tokens": 0},
        },
    }


def test_the_stream_of_thought_text_and_tools(served):
    served.engine.script = lambda request: USES_TOOLS
    served.engine.reason = "tool_calls"
    stream = events(post(served, stream=True, tools=[WEATHER], thinking={"type": "enabled", "budget_tokens": 32}))
    assert [event["type"] for event in stream] == [
        "message_start",
        "ping",
        *("content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_delta", "content_block_stop"),
        "message_delta",
        "message_stop",
    ]
    assert [event["index"] for event in stream if event["type"] == "content_block_stop"] == [0, 1, 2, 3]
    assert stream[4]["delta"]["type"] == "signature_delta"
    assert stream[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert served.engine.tickets[-1].request.max_thought_tokens == 32


def test_the_official_client_reads_both_forms_alike(served, client):
    served.engine.script = lambda request: USES_TOOLS
    served.engine.reason = "tool_calls"
    options = {**ASK, "tools": [WEATHER], "thinking": {"type": "enabled", "budget_tokens": 32}}
    whole = client.messages.create(**options)
    with client.messages.stream(**options) as stream:
        text = "".join(stream.text_stream)
        streamed = stream.get_final_message()
    assert text == "I look."
    assert [block.type for block in whole.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert whole.content[2].input == {"town": "Bern"}
    assert whole.stop_reason == streamed.stop_reason == "tool_use"
    assert whole.usage.output_tokens == streamed.usage.output_tokens
    unsigned = [[block.model_dump(exclude={"signature"}) for block in one.content] for one in (whole, streamed)]
    assert unsigned[0] == unsigned[1]


def test_a_conversation_with_tools_reaches_the_template(served, client):
    client.messages.create(
        model="deepseek-chat",
        max_tokens=9,
        system=[
            {"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "brief"},
        ],
        tools=[WEATHER],
        messages=[
            {"role": "user", "content": "one"},
            {"role": "user", "content": [{"type": "text", "text": "two"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "tool_use", "id": "a", "name": "weather", "input": {"town": "Zürich"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "rain"}]},
                    {"type": "text", "text": "and now?"},
                ],
            },
        ],
    )
    messages, tools, thinking = served.engine.template.rendered[-1]
    assert [(one.role, one.content, one.reasoning_content) for one in messages] == [
        ("system", "Be\n\nbrief", None),
        ("user", "one\n\ntwo", None),
        ("assistant", None, "hm"),
        ("tool", "rain", None),
        ("user", "and now?", None),
    ]
    assert messages[2].tool_calls[0].arguments == '{"town": "Zürich"}'
    assert messages[3].tool_call_id == "a"
    assert (tools[0].name, thinking) == ("weather", False)


def test_a_last_turn_of_the_assistant_is_continued(served):
    post(served, messages=[*ASK["messages"], {"role": "assistant", "content": "It is"}])
    last = served.engine.template.rendered[-1][0][-1]
    assert (last.content, last.prefix) == ("It is", True)


def test_sampling_and_stop_sequences(served, client):
    client.messages.create(
        **ASK,
        extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 5},
        stop_sequences=["END"],
        metadata={"user_id": "ann"},
    )
    request = served.engine.tickets[-1].request
    params = request.params
    assert (params.max_tokens, params.temperature, params.top_p, params.top_k) == (64, 0.5, 0.9, 5)
    assert (params.stop, request.salt) == (("END",), "ann")


@pytest.mark.parametrize(
    ("reason", "max_tokens", "said"),
    [("length", 2, "max_tokens"), ("length", 64, "model_context_window_exceeded"), ("stop", 64, "end_turn")],
)
def test_why_it_stopped(served, reason, max_tokens, said):
    served.engine.reason = reason
    assert post(served, max_tokens=max_tokens).json()["stop_reason"] == said


def test_arguments_that_are_no_json_are_handed_on(served):
    served.engine.script = lambda request: [ToolCallStart(0, "a", "weather"), ToolCallArguments(0, "{oops")]
    assert post(served).json()["content"][0]["input"] == {"malformed_arguments": "{oops"}


def test_count_tokens(served, client):
    assert client.messages.count_tokens(model="x", messages=ASK["messages"]).input_tokens == 11
    assert not served.engine.tickets


def test_any_name_is_answered_and_said(served):
    response = post(served, model="claude-sonnet-4-5")
    assert response.json()["model"] == "claude-sonnet-4-5"
    assert "answered by scripted:1b" in response.headers["x-fathom-warning"]
    post(served, model="deepseek-reasoner")
    assert served.engine.template.rendered[-1][2] is True


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"frobnicate": 1}, "frobnicate"),
        ({"tool_choice": {"type": "any"}}, "there are no tools"),
        ({"thinking": {"type": "enabled", "budget_tokens": 64}}, "budget_tokens"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "image"),
        ({"messages": [{"role": "user", "content": "TEMPLATE FAILS"}]}, "ask differently"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "schema"),
    ],
)
def test_refusals(served, client, fields, says):
    with pytest.raises(anthropic.BadRequestError, match=says) as refused:
        client.messages.create(**{**ASK, **{k: v for k, v in fields.items() if k != "frobnicate"}}, extra_body=fields)
    assert refused.value.body["type"] == "error"
    assert refused.value.body["error"]["type"] == "invalid_request_error"
    assert refused.value.request_id.startswith("req_")


def test_the_one_gate(start):
    served = start(api_key="sk-the-right-key")
    wrong = anthropic.Anthropic(base_url=f"{served.url}/anthropic", api_key="sk-wrong", max_retries=0)
    with wrong, pytest.raises(anthropic.AuthenticationError) as refused:
        wrong.messages.create(**ASK)
    assert refused.value.body["error"]["type"] == "authentication_error"
    with anthropic.Anthropic(base_url=f"{served.url}/anthropic", api_key="sk-the-right-key") as right:
        assert right.messages.create(**ASK).content[0].text == "hello there "
    with served.client() as client:
        missing = client.post("/anthropic/v1/nothing", headers={"x-api-key": "sk-the-right-key"})
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")


def test_a_full_queue(served, client):
    served.engine.refuse = QueueFull("512 requests wait already")
    with pytest.raises(anthropic.InternalServerError) as refused:
        client.messages.create(**ASK)
    assert (refused.value.status_code, refused.value.body["error"]["type"]) == (503, "overloaded_error")


def test_a_failure_in_the_middle_is_an_error_event(served):
    served.engine.reason = "error"
    stream = events(post(served, stream=True))
    assert stream[-1] == {"type": "error", "error": {"type": "api_error", "message": stream[-1]["error"]["message"]}}
    assert post(served).status_code == 500


def test_pings_while_nothing_comes_and_leaving(start):
    served = start(keep_alive_seconds=0.05)
    served.engine.hold.clear()
    names: list[str] = []
    with (
        served.client() as client,
        client.stream("POST", "/anthropic/v1/messages", json={**ASK, "stream": True}) as response,
    ):
        for line in response.iter_lines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
            if names.count("ping") == 3:
                served.engine.hold.set()
    assert names[:4] == ["message_start", "ping", "ping", "ping"]
    assert names[-1] == "message_stop"
    served.engine.hold.clear()
    with (
        served.client() as client,
        client.stream("POST", "/anthropic/v1/messages", json={**ASK, "stream": True}) as response,
    ):
        next(response.iter_lines())
    assert served.engine.tickets[-1].cancelled.wait(1)
