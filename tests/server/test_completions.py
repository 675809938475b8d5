"""POST /completions: several prompts, echo, log probabilities of prompts; the tokenizer's own routes."""

import pytest

from fathom.engine import PromptLogprobs, TokenLogprobs
from fathom.text import Answer


def scored(request):
    asked = request.params.prompt_logprobs
    if asked is not None:
        ids = request.prompt.ids[1:]
        yield PromptLogprobs(tuple(TokenLogprobs(id, -0.5, ((id + 1, -0.1),)[:asked], False) for id in ids))
    yield TokenLogprobs(ord("!"), -0.25, ((ord("!"), -0.25),), False)
    yield Answer("!")


def complete(served, **fields):
    with served.client() as client:
        response = client.post("/completions", json={"model": "deepseek-chat", **fields})
    assert response.status_code == 200, response.text
    return response.json()


def test_echo_with_logprobs(served):
    served.engine.script = scored
    answer = complete(served, prompt="abc", echo=True, logprobs=1, max_tokens=1)
    choice = answer["choices"][0]
    assert choice["text"] == "abc!"
    assert choice["logprobs"] == {
        "tokens": ["a", "b", "c", "!"],
        "token_logprobs": [None, -0.5, -0.5, -0.25],
        "top_logprobs": [None, {"c": -0.1, "b": -0.5}, {"d": -0.1, "c": -0.5}, {"!": -0.25}],
        "text_offset": [0, 1, 2, 3],
    }


def test_the_prompt_alone(served):
    served.engine.script = scored
    answer = complete(served, prompt=[97, 98], echo=True, logprobs=0, max_tokens=0)
    assert answer["choices"][0]["text"] == "ab"
    assert answer["choices"][0]["logprobs"]["token_logprobs"] == [None, -0.5]
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("prompt", [["one", "two words"], [[97, 98], [99]]])
def test_several_prompts_at_once(served, prompt):
    answer = complete(served, prompt=prompt, n=2, echo=True, stream=False)
    texts = [choice["text"] for choice in answer["choices"]]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert texts[0] == texts[1] != texts[2] == texts[3]
    lengths = [len(one) for one in prompt]
    assert answer["usage"]["prompt_tokens"] == sum(lengths)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"prompt": "a", "max_tokens": 0}, "asks for nothing"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": "a", "suffix": "b", "echo": True}, "echo"),
    ],
)
def test_refusals(served, fields, says):
    with served.client() as client:
        response = client.post("/completions", json={"model": "deepseek-chat", **fields})
    assert (response.status_code, says in response.json()["error"]["message"]) == (422, True)


def test_strict_rules_are_those_of_one_version(start):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    loop = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "b", "tool_call_id": "c"},
    ]
    thoughts = [*loop[:1], {"role": "assistant", "content": "x", "reasoning_content": "y"}, *loop[:1]]
    tool = {"type": "function", "function": {"name": "f"}}
    lenient, v32, r1 = start(), start(strict="deepseek-v3.2"), start(strict="deepseek-r1")
    for fields, refusers in (
        ({"messages": loop}, (v32,)),
        ({"messages": thoughts}, (r1,)),
        ({"tools": [tool]}, (r1,)),
        ({"response_format": {"type": "json_object"}}, (r1,)),
        ({"logprobs": True}, (v32, r1)),
    ):
        for served in (lenient, v32, r1):
            response = served.chat(model="deepseek-reasoner", **fields)
            assert response.status_code == (400 if served in refusers else 200), (fields, served.config.strict)
            assert served.chat(model="deepseek-chat", **fields).status_code == 200  # rules of thinking


def test_a_thinking_request_keeps_room_for_its_answer(served):
    served.chat(model="deepseek-reasoner", max_tokens=400)
    assert served.engine.tickets[-1].request.max_thought_tokens == 300
    served.chat(model="deepseek-chat", max_tokens=400)
    assert served.engine.tickets[-1].request.max_thought_tokens is None
