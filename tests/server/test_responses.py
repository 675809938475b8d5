"""OpenAI's Responses through OpenAI's own client: text, thoughts, calls, streams, refusals."""

import json

import openai
import pytest

from fathom.text import Answer, Thought, ToolCallArguments, ToolCallEnd, ToolCallStart

TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": False}


@pytest.fixture
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0) as made:
        yield made


def test_text(served, client):
    answer = client.responses.create(model="deepseek-chat", input="hello there", instructions="Be brief.")
    assert (answer.status, answer.output_text) == ("completed", "hello there ")
    assert [item.type for item in answer.output] == ["message"]
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (11, 2)
    assert [message.role for message in served.engine.template.rendered[-1][0]] == ["system", "user"]


def test_thoughts(client):
    ask = {"model": "deepseek-v4-flash", "input": "hello", "max_output_tokens": 99}
    answer = client.responses.create(**ask, reasoning={"effort": "high"})
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].content[0].text == "Let me think."
    assert answer.usage.output_tokens_details.reasoning_tokens == 2
    assert client.responses.create(**ask, reasoning={"effort": "none"}).output[0].type == "message"


def calling(request):
    yield Thought("Hm.")
    yield Answer("Wait.")
    for index in range(2):
        yield ToolCallStart(index, f"call_0{index}", "weather")
        yield ToolCallArguments(index, '{"city": ')
        yield ToolCallArguments(index, '"Bern"}')
        yield ToolCallEnd(index)


def test_a_round_of_tools(served, client):
    served.engine.script, served.engine.reason = calling, "tool_calls"
    first = client.responses.create(model="deepseek-reasoner", input="weather?", tools=[TOOL], tool_choice="required")
    assert [item.type for item in first.output] == ["reasoning", "message", "function_call", "function_call"]
    assert json.loads(first.output[2].arguments) == {"city": "Bern"}
    constraint = served.engine.tickets[-1].request.constraint
    assert (constraint.grammar.begins, "weather" in constraint.grammar.source) == ("answer", True)
    results = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "sunny"}
        for item in first.output
        if item.type == "function_call"
    ]
    served.engine.script = lambda request: [Answer("Sunny.")]
    history = [{"role": "user", "content": "weather?"}, *first.output, *results]
    second = client.responses.create(model="deepseek-reasoner", input=history, tools=[TOOL])
    assert second.output_text == "Sunny."
    _, assistant, *told = served.engine.template.rendered[-1][0]
    assert (assistant.content, assistant.reasoning_content) == ("Wait.", "Hm.")
    assert [call.id for call in assistant.tool_calls] == [message.tool_call_id for message in told]


def test_the_stream_is_the_whole_in_pieces(served, client):
    served.engine.script, served.engine.reason = calling, "tool_calls"
    ask = {"model": "deepseek-reasoner", "input": "weather?", "tools": [TOOL]}
    events = list(client.responses.create(**ask, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds[-1] == "response.completed"
    for kind in ("reasoning_text.delta", "output_text.done", "function_call_arguments.delta", "content_part.done"):
        assert f"response.{kind}" in kinds
    whole = client.responses.create(**ask)
    for streamed, item in zip(events[-1].response.output, whole.output, strict=True):
        assert streamed.model_dump(exclude={"id"}) == item.model_dump(exclude={"id"})
    with client.responses.stream(**ask) as stream:  # the client's own accumulator
        assert stream.get_final_response().output[2].arguments == '{"city": "Bern"}'


def test_forms(served, client):
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}}
    for form, shown in (
        ({"type": "json_object"}, "object"),
        ({"type": "json_schema", "name": "x", "schema": schema}, "age"),
    ):
        client.responses.create(model="deepseek-chat", input="hi", text={"format": form})
        assert shown in served.engine.tickets[-1].request.constraint.grammar.source


def test_an_answer_cut_off(served, client):
    served.engine.reason = "length"
    answer = client.responses.create(model="deepseek-chat", input="a b c")
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"previous_response_id": "resp_1"}, "keeps nothing"),
        ({"input": [{"type": "computer_call"}]}, "computer_call"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"truncation": "auto"}, "truncation"),
        ({"frobnicate": 1}, "frobnicate"),
        ({"model": "gpt-9"}, "Model Not Exist"),
        ({"input": "TEMPLATE FAILS"}, "ask differently"),
    ],
)
def test_refusals(client, fields, says):
    with pytest.raises(openai.APIStatusError, match=says) as refused:
        client.responses.create(model="deepseek-chat", input="x", extra_body=fields)
    assert refused.value.status_code in (400, 422)


def test_a_failure_in_the_midst_of_a_stream_is_an_error_event(served, client):
    served.engine.reason = "error"
    *_, last = client.responses.create(model="deepseek-chat", input="a b", stream=True)
    assert (last.type, "engine failed" in last.message) == ("error", True)
