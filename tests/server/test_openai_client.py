"""The official `openai` client against a real server: answers, streams, and its exception classes."""

import openai
import pytest

from fathom.engine.errors import QueueFull

HELLO = [{"role": "user", "content": "hello there"}]


@pytest.fixture
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0, timeout=20) as made:
        yield made


def test_whole_and_thinking(client):
    answer = client.chat.completions.create(model="deepseek-reasoner", messages=HELLO)
    assert answer.choices[0].message.content == "hello there "
    assert answer.choices[0].message.reasoning_content == "Let me think."
    assert answer.usage.completion_tokens_details.reasoning_tokens == 2
    assert answer.usage.prompt_cache_miss_tokens == 11


def test_stream(client):
    stream = client.chat.completions.create(
        model="deepseek-chat", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "hello there "
    assert chunks[-1].usage.total_tokens == 13


def test_models(client):
    assert "deepseek-reasoner" in [model.id for model in client.models.list()]
    assert client.models.retrieve("scripted:1b").owned_by == "fathom"


def test_text_completion_and_filling_the_middle(client, served):
    answer = client.completions.create(model="deepseek-chat", prompt="one two", echo=True, max_tokens=9)
    assert answer.choices[0].text == "one twoone two "
    assert served.engine.tickets[-1].request.plain
    client.completions.create(model="deepseek-chat", prompt="ab", suffix="yz")
    assert list(served.engine.tickets[-1].request.prompt.ids) == [1, 97, 98, 2, 121, 122, 3]
    pieces = list(client.completions.create(model="deepseek-chat", prompt="one two", stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == "one two "
    assert pieces[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"model": "gpt-9"}, openai.BadRequestError),
        ({"temperature": 3}, openai.UnprocessableEntityError),
        ({"messages": [{"role": "user", "content": "TEMPLATE FAILS"}]}, openai.BadRequestError),
    ],
)
def test_refusals_are_the_clients_own_exceptions(client, options, error):
    with pytest.raises(error) as refused:
        client.chat.completions.create(**{"model": "deepseek-chat", "messages": HELLO, **options})
    assert refused.value.body["message"]
    assert refused.value.request_id.startswith("req_")


def test_a_full_queue_is_worth_a_retry(client, served):
    served.engine.refuse = QueueFull("512 requests wait already")
    with pytest.raises(openai.InternalServerError) as refused:
        client.chat.completions.create(model="deepseek-chat", messages=HELLO)
    assert refused.value.status_code == 503
    assert refused.value.response.headers["retry-after"]


def test_a_wrong_key(start):
    served = start(api_key="sk-the-right-key")
    wrong = openai.OpenAI(base_url=f"{served.url}/v1", api_key="sk-wrong", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="sk-the-right-key") as client:
        assert client.models.list().data


def test_the_asynchronous_client_stops_the_work_when_closed(served):
    import asyncio

    async def ask():
        async with openai.AsyncOpenAI(base_url=served.url, api_key="x") as client:
            stream = await client.chat.completions.create(model="deepseek-chat", messages=HELLO, stream=True)
            await stream.close()

    served.engine.hold.clear()
    asyncio.run(ask())
    assert served.engine.tickets[0].cancelled.wait(1)
