"""Programs that people have, each on a real scenario: langchain-deepseek, litellm; slow: lm-eval, the AI SDK."""

import json
import os
import shutil
import subprocess

import pytest

from fathom.text import Answer, Thought, ToolCallArguments, ToolCallEnd, ToolCallStart

TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it.", "parameters": {"type": "object", "properties": {}}},
}


def calling_first(request):
    """Calls a tool when one is offered and has not answered yet, otherwise says what the tool said."""
    if request.prompt.text == "weather?":
        return [
            Thought("Hm."),
            ToolCallStart(0, "call_00_x", "weather"),
            ToolCallArguments(0, '{"city": "Bern"}'),
            ToolCallEnd(0),
        ]
    return [Thought("So."), Answer("It is "), Answer(request.prompt.text)]


def test_langchain_deepseek(served):
    deepseek = pytest.importorskip("langchain_deepseek")
    messages = pytest.importorskip("langchain_core.messages")
    model = deepseek.ChatDeepSeek(model="deepseek-reasoner", api_base=f"{served.url}/v1", api_key="x", max_retries=0)
    said = model.invoke("hello there")
    assert (said.content, said.additional_kwargs["reasoning_content"]) == ("hello there ", "Let me think.")
    assert said.usage_metadata["output_token_details"]["reasoning"] == 2
    pieces = list(model.stream("hello there"))
    assert "".join(piece.content for piece in pieces) == "hello there "
    assert "".join(piece.additional_kwargs.get("reasoning_content", "") for piece in pieces) == "Let me think."
    served.engine.script, served.engine.reason = calling_first, "tool_calls"
    bound = model.bind_tools([TOOL])
    question = messages.HumanMessage("weather?")
    asked = bound.invoke([question])
    assert [(call["name"], call["args"]) for call in asked.tool_calls] == [("weather", {"city": "Bern"})]
    served.engine.reason = "stop"
    result = messages.ToolMessage("sunny", tool_call_id=asked.tool_calls[0]["id"])
    assert bound.invoke([question, asked, result]).content == "It is sunny"  # it drops reasoning_content; so what
    served.engine.script = lambda request: [Answer('{"age": 3}')]
    person = {"title": "Person", "type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    structured = model.with_structured_output(person, method="json_mode")
    assert structured.invoke("json please") == {"age": 3}
    assert "%json" in served.engine.tickets[-1].request.constraint.grammar.source
    with pytest.raises(Exception, match="ask differently"):
        model.invoke("TEMPLATE FAILS")


def test_litellm(served, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm")
    options = {"api_base": f"{served.url}/v1", "api_key": "x", "num_retries": 0}
    ask = {"model": "deepseek/deepseek-reasoner", "messages": [{"role": "user", "content": "hello there"}], **options}
    said = litellm.completion(**ask)
    assert (said.choices[0].message.content, said.choices[0].message.reasoning_content) == (
        "hello there ",
        "Let me think.",
    )
    assert said.usage.completion_tokens_details.reasoning_tokens == 2
    pieces = list(litellm.completion(**ask, stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "hello there "
    served.engine.script, served.engine.reason = calling_first, "tool_calls"
    called = litellm.completion(**{**ask, "messages": [{"role": "user", "content": "weather?"}]}, tools=[TOOL])
    (call,) = called.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Bern"})
    with pytest.raises(litellm.BadRequestError, match="ask differently"):
        litellm.completion(**{**ask, "messages": [{"role": "user", "content": "TEMPLATE FAILS"}]})


@pytest.mark.slow
def test_lm_eval(start, smollm2_gguf, tmp_path, monkeypatch):
    """A multiple-choice task (loglikelihood over echo and logprobs) and a generative one, on the real engine."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lm_eval = pytest.importorskip("lm_eval")
    from fathom.engine.loading import load

    data = tmp_path / "tiny.jsonl"
    rows = [("The capital of France is", ["Paris", "a banana"], 0), ("Two plus two is", ["purple", "four"], 1)]
    data.write_text("".join(json.dumps({"q": q, "c": c, "a": a}) + "\n" for q, c, a in rows))
    shared = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    choice = {"task": "tiny_choice", "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "{{c}}"}
    choice |= {**shared, "doc_to_target": "{{a}}", "metric_list": [{"metric": "acc"}]}
    written = {"task": "tiny_written", "output_type": "generate_until", "doc_to_text": "{{q}}", "doc_to_target": "x"}
    written |= {**shared, "generation_kwargs": {"max_gen_toks": 8, "until": ["\n"]}}
    written |= {"metric_list": [{"metric": "exact_match"}]}
    with load(smollm2_gguf, cache_bytes=64 * 2**20) as engine:
        monkeypatch.setattr(engine, "close", lambda: None)
        served = start(engine)
        # lm-eval cuts texts into tokens itself: the same vocabulary in the form that it reads.
        engine.tokenizer._backend.save(str(tmp_path / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": engine.tokenizer.decode([0])}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        arguments = {
            "model": "deepseek-chat",
            "base_url": f"{served.url}/v1/completions",
            "tokenizer_backend": "huggingface",
            "tokenizer": str(tmp_path),
            "max_length": 2048,
        }
        result = lm_eval.simple_evaluate(
            model="local-completions", model_args=arguments, tasks=[choice, written], bootstrap_iters=0, batch_size=2
        )
        monkeypatch.undo()
    assert result["results"]["tiny_choice"]["acc,none"] == 1.0
    answers = [one["resps"][0][0] for one in result["samples"]["tiny_written"]]
    assert all(isinstance(answer, str) for answer in answers)
    assert any(answers)


AI_SDK = """
import { createDeepSeek } from '@ai-sdk/deepseek';
import { generateText, streamText } from 'ai';
const deepseek = createDeepSeek({ baseURL: process.env.BASE, apiKey: 'x' });
const whole = await generateText({ model: deepseek('deepseek-reasoner'), prompt: 'hello there' });
const stream = streamText({ model: deepseek('deepseek-chat'), prompt: 'hello there' });
let text = '';
for await (const piece of stream.textStream) text += piece;
console.log(JSON.stringify({ whole: whole.text, thought: whole.reasoningText, streamed: text }));
"""


@pytest.mark.slow
def test_the_ai_sdk(served, tmp_path):
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    installed = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "@ai-sdk/deepseek", "ai"],
        cwd=tmp_path,
        capture_output=True,
        timeout=200,
        check=False,
    )
    if installed.returncode != 0:
        pytest.skip(f"npm cannot install the AI SDK: {installed.stderr[-200:]!r}")
    (tmp_path / "ask.mjs").write_text(AI_SDK)
    environment = {**os.environ, "BASE": f"{served.url}/v1"}
    done = subprocess.run(
        ["node", "ask.mjs"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    said = json.loads(done.stdout)
    assert (said["whole"], said["thought"], said["streamed"]) == ("hello there ", "Let me think.", "hello there ")
