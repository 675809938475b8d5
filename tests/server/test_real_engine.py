"""The API over the real engine and the default model: many at once, and pages that come back when a client leaves."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import anthropic
import openai
import pytest


@pytest.fixture(scope="module")
def engine(smollm2_gguf):
    from fathom.engine.loading import load

    with load(smollm2_gguf, cache_bytes=256 * 2**20) as loaded:
        yield loaded


@pytest.fixture
def served(start, engine, monkeypatch):
    monkeypatch.setattr(engine, "close", lambda: None)  # it outlives the server of one test
    return start(engine)


def test_an_answer_streamed_and_whole(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="x") as client:
        ask = {"model": "deepseek-chat", "messages": [{"role": "user", "content": "Count to five."}], "seed": 1}
        ask["extra_body"] = {"ignore_eos": True}
        whole = client.chat.completions.create(**ask, temperature=0, max_tokens=24)
        pieces = list(client.chat.completions.create(**ask, temperature=0, max_tokens=24, stream=True))
        assert whole.choices[0].message.content == "".join(piece.choices[0].delta.content or "" for piece in pieces)
        assert whole.usage.completion_tokens == 24
        assert pieces[-1].usage.completion_tokens == 24


def test_anthropics_client_on_the_real_engine(served):
    ask = {"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": "Count to ten in digits."}]}
    with anthropic.Anthropic(base_url=f"{served.url}/anthropic", api_key="x", max_retries=0) as client:
        counted = client.messages.count_tokens(**ask).input_tokens
        with client.messages.stream(**ask, max_tokens=24, extra_body={"temperature": 0}) as stream:
            text = "".join(stream.text_stream)
            message = stream.get_final_message()
        whole = client.messages.create(**ask, max_tokens=24, extra_body={"temperature": 0})
        stopped = client.messages.create(**ask, max_tokens=24, stop_sequences=[text[:2]], extra_body={"temperature": 0})
    assert message.content[0].text == whole.content[0].text == text
    for said in (message.usage, whole.usage):
        assert said.input_tokens + said.cache_read_input_tokens == counted
    assert (stopped.stop_reason, stopped.stop_sequence, stopped.content) == ("stop_sequence", text[:2], [])


def test_forty_streams_at_once_with_usage(served, engine):
    def ask(number):
        with served.client() as client:
            body = {
                "model": "deepseek-chat",
                "messages": [{"role": "user", "content": f"Say the number {number}."}],
                "max_tokens": 8,
                "stream": True,
                "ignore_eos": True,
            }
            response = client.post("/v1/chat/completions", json=body, timeout=120)
        lines = [line[6:] for line in response.text.split("\n\n") if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        return json.loads(lines[-2])

    with ThreadPoolExecutor(40) as pool:
        last = list(pool.map(ask, range(100, 140)))
    assert [chunk["choices"][0]["finish_reason"] for chunk in last] == ["length"] * 40
    assert {chunk["usage"]["completion_tokens"] for chunk in last} == {8}
    assert len({chunk["usage"]["prompt_tokens"] for chunk in last}) == 1
    assert engine.stats().load.pages_held == 0


def test_pages_come_back_within_a_second_of_leaving(served, engine):
    body = {
        "model": "deepseek-chat",
        "messages": [{"role": "user", "content": "Tell a long story."}],
        "stream": True,
        "ignore_eos": True,
    }
    with served.client() as client, client.stream("POST", "/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        assert engine.stats().load.pages_held > 0
    left = time.monotonic()
    while engine.stats().load.pages_held:
        assert time.monotonic() - left < 1.0
        time.sleep(0.005)


def test_log_probabilities_are_of_the_tokens_shown(served):
    with openai.OpenAI(base_url=served.url, api_key="x") as client:
        answer = client.chat.completions.create(
            model="deepseek-chat",
            messages=[{"role": "user", "content": "Say hello."}],
            temperature=0,
            max_tokens=6,
            logprobs=True,
            top_logprobs=3,
        )
    tokens = answer.choices[0].logprobs.content
    assert b"".join(bytes(one.bytes) for one in tokens).decode() == answer.choices[0].message.content
    assert all(one.top_logprobs[0].token == one.token and len(one.top_logprobs) == 3 for one in tokens)


def test_a_prompt_beyond_the_context_is_refused(served):
    with (
        openai.OpenAI(base_url=served.url, api_key="x") as client,
        pytest.raises(openai.BadRequestError, match="Shorten"),
    ):
        client.chat.completions.create(model="deepseek-chat", messages=[{"role": "user", "content": "word " * 9000}])


def test_a_model_without_fim_tokens_refuses_a_suffix_or_fills_it(served, engine):
    with served.client() as client:
        response = client.post(
            "/beta/completions", json={"model": "deepseek-chat", "prompt": "a", "suffix": "b", "max_tokens": 2}
        )
    has_fim = engine.tokenizer.id_of("<fim_middle>") is not None
    assert response.status_code == (200 if has_fim else 400)
