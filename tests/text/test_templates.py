"""Each dialect as golden strings, and equal to the templates that checkpoints ship, rendered by transformers."""

import json
from pathlib import Path
from typing import Any

import pytest

from fathom.text import (
    ChatTemplate,
    Message,
    Prompt,
    TemplateError,
    Tokenizer,
    Tool,
    ToolCall,
    ToolCallStart,
    chat_template,
)

B, E, U, A = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"
CALLS, END_CALLS = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, SEP, END_CALL = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
RESULTS, END_RESULTS = "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>"
RESULT, END_RESULT = "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"

SYSTEM, HI, WHY = Message("system", "Be brief."), Message("user", "Hi"), Message("user", "Why?")
THOUGHT = Message("assistant", "Hello", reasoning_content="A greeting.")
TALK = [SYSTEM, HI, THOUGHT, WHY]
CALLED = Message("assistant", None, tool_calls=(ToolCall("1", "add", '{"a": 1}'), ToolCall("2", "now", "{}")))
ANSWERS = [Message("tool", "one", tool_call_id="1"), Message("tool", "two", tool_call_id="2")]
ROUND = [HI, CALLED, *ANSWERS]
ADD = Tool("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})
PARAMETERS = '{"type": "object", "properties": {"a": {"type": "integer"}}}'
ADD_JSON = f'{{"name": "add", "description": "Adds.", "parameters": {PARAMETERS}}}'
CONTINUED = [HI, Message("assistant", "So", prefix=True)]
THOUGHT_CONTINUED = [HI, Message("assistant", "", "Hm", prefix=True)]
BOTH_CONTINUED = [HI, Message("assistant", "So", "Hm", prefix=True)]

V3_CALLS = (
    f'{CALLS}{CALL}function{SEP}add\n```json\n{{"a": 1}}\n```{END_CALL}'
    f"\n{CALL}function{SEP}now\n```json\n{{}}\n```{END_CALL}{END_CALLS}"
)
V3_RESULTS = f"{RESULTS}{RESULT}one{END_RESULT}\n{RESULT}two{END_RESULT}{END_RESULTS}"
V31_CALLS = f'{CALLS}{CALL}add{SEP}{{"a": 1}}{END_CALL}{CALL}now{SEP}{{}}{END_CALL}{END_CALLS}'
V31_RESULTS = f"{RESULT}one{END_RESULT}{RESULT}two{END_RESULT}"

IM_U, IM_A = "<|im_start|>user\n", "<|im_start|>assistant\n"

GOLDEN = [
    ("chatml-think", [HI], True, f"{IM_U}Hi<|im_end|>\n{IM_A}<think>\n", "thought"),
    ("chatml-think", [HI], False, f"{IM_U}Hi<|im_end|>\n{IM_A}", "any"),
    (
        "chatml-think",
        [HI, Message("assistant", "<think>\nHm\n</think>\n\nSo"), WHY],
        True,
        f"{IM_U}Hi<|im_end|>\n{IM_A}So<|im_end|>\n{IM_U}Why?<|im_end|>\n{IM_A}<think>\n",
        "thought",
    ),
    ("chatml-think", THOUGHT_CONTINUED, True, f"{IM_U}Hi<|im_end|>\n{IM_A}<think>\nHm", "thought"),
    ("chatml-think", BOTH_CONTINUED, True, f"{IM_U}Hi<|im_end|>\n{IM_A}<think>\nHm\n</think>\n\nSo", "answer"),
    ("deepseek-v2", [HI], False, f"{B}User: Hi\n\nAssistant:", "any"),
    ("deepseek-v2", TALK, False, f"{B}Be brief.\n\nUser: Hi\n\nAssistant: Hello{E}User: Why?\n\nAssistant:", "any"),
    ("deepseek-v2", CONTINUED, False, f"{B}User: Hi\n\nAssistant: So", "answer"),
    ("deepseek-v3", [HI], False, f"{B}{U}Hi{A}", "any"),
    ("deepseek-v3", TALK, False, f"{B}Be brief.{U}Hi{A}Hello{E}{U}Why?{A}", "any"),
    ("deepseek-v3", [SYSTEM, SYSTEM, HI], False, f"{B}Be brief.\n\nBe brief.{U}Hi{A}", "any"),
    ("deepseek-v3", CONTINUED, False, f"{B}{U}Hi{A}So", "answer"),
    ("deepseek-v3", ROUND, False, f"{B}{U}Hi{A}{V3_CALLS}{E}{V3_RESULTS}", "any"),
    (
        "deepseek-v3",
        [*ROUND, CALLED, *ANSWERS, Message("assistant", "So"), WHY],
        False,
        f"{B}{U}Hi{A}{V3_CALLS}{E}{V3_RESULTS}{V3_CALLS}{E}{V3_RESULTS}So{E}{U}Why?{A}",
        "any",
    ),
    ("deepseek-r1", TALK, False, f"{B}Be brief.{U}Hi{A}Hello{E}{U}Why?{A}", "any"),
    ("deepseek-r1", [HI], True, f"{B}{U}Hi{A}<think>\n", "thought"),
    ("deepseek-r1-0528", [HI], True, f"{B}{U}Hi{A}<think>\n", "thought"),
    ("deepseek-r1-0528", [HI], False, f"{B}{U}Hi{A}<think>\n\n</think>\n\n", "answer"),
    (
        "deepseek-r1-0528",
        [HI, Message("assistant", "<think>\nHm\n</think>\n\nSo"), WHY],
        True,
        f"{B}{U}Hi{A}\n\nSo{E}{U}Why?{A}<think>\n",
        "thought",
    ),
    ("deepseek-r1-0528", CONTINUED, True, f"{B}{U}Hi{A}<think>\n\n</think>\n\nSo", "answer"),
    ("deepseek-r1-0528", THOUGHT_CONTINUED, True, f"{B}{U}Hi{A}<think>\nHm", "thought"),
    ("deepseek-r1-0528", BOTH_CONTINUED, True, f"{B}{U}Hi{A}<think>\nHm\n</think>\n\nSo", "answer"),
    ("deepseek-v3.1", [HI], False, f"{B}{U}Hi{A}</think>", "answer"),
    ("deepseek-v3.1", [HI], True, f"{B}{U}Hi{A}<think>", "thought"),
    ("deepseek-v3.1", TALK, True, f"{B}Be brief.{U}Hi{A}</think>Hello{E}{U}Why?{A}<think>", "thought"),
    ("deepseek-v3.1", ROUND, False, f"{B}{U}Hi{A}</think>{V31_CALLS}{E}{V31_RESULTS}", "any"),
    ("deepseek-v3.1", BOTH_CONTINUED, True, f"{B}{U}Hi{A}<think>Hm</think>So", "answer"),
    ("deepseek-v3.1", CONTINUED, False, f"{B}{U}Hi{A}</think>So", "answer"),
    ("chatml", [HI], False, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "any"),
    (
        "chatml",
        [SYSTEM, HI],
        False,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "any",
    ),
    (
        "chatml",
        ROUND,
        False,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
        "\n"
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call><|im_end|>\n<|im_start|>user\n'
        "<tool_response>\none\n</tool_response>\n"
        "<tool_response>\ntwo\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
        "any",
    ),
    ("chatml", CONTINUED, False, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nSo", "answer"),
    (
        "llama-3",
        [SYSTEM, Message("user", " Hi ")],
        False,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "any",
    ),
]


@pytest.mark.parametrize(("dialect", "messages", "thinking", "text", "channel"), GOLDEN)
def test_golden(dialect: str, messages: list[Message], thinking: bool, text: str, channel: str, v3: Tokenizer) -> None:
    prompt = chat_template(v3, dialect=dialect).render(messages, thinking=thinking)
    assert (prompt.text, prompt.channel) == (text, channel)
    assert list(prompt.ids) == v3.encode_control(text)


def test_tools_in_the_v3_dialect(v3: Tokenizer) -> None:
    prompt = chat_template(v3, dialect="deepseek-v3").render([SYSTEM, HI], tools=[ADD])
    call = f'{CALLS}{CALL}function{SEP}FUNCTION_NAME\n```json\n{{"parameter": "value"}}\n```{END_CALL}{END_CALLS}'
    assert prompt.text == (
        f"{B}Be brief.\n\n## Tools\n\n### Function\n\nYou have the following functions available:\n\n"
        f"- `add`:\n```json\n{ADD_JSON}\n```\n\nTo call functions, write:\n{call}\n"
        f"The arguments must be valid JSON.{U}Hi{A}"
    )
    assert prompt.tools


def test_tools_in_the_v31_dialect(v3: Tokenizer) -> None:
    prompt = chat_template(v3, dialect="deepseek-v3.1").render([SYSTEM, HI], tools=[ADD])
    assert prompt.text == (
        f"{B}Be brief.\n\n## Tools\nYou have access to the following tools:\n\n### add\nDescription: Adds.\n\n"
        'Parameters: {"type": "object", "properties": {"a": {"type": "integer"}}}\n\n'
        "IMPORTANT: ALWAYS adhere to this exact format for tool use:\n"
        f"{CALLS}{CALL}tool_call_name{SEP}tool_call_arguments{END_CALL}{{additional_tool_calls}}{END_CALLS}\n\nWhere:\n"
        "- `tool_call_name` must be an exact match to one of the available tools\n"
        "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n"
        f"- For multiple tool calls, chain them directly without separators or spaces{U}Hi{A}</think>"
    )


D = "｜DSML｜"
V32_CALLS = (
    f'\n\n<{D}function_calls>\n<{D}invoke name="add">\n<{D}parameter name="a" string="false">1</{D}parameter>\n'
    f'</{D}invoke>\n<{D}invoke name="now">\n\n</{D}invoke>\n</{D}function_calls>'
)
V32_RESULTS = "\n\n<function_results>\n<result>one</result>\n<result>two</result>\n</function_results>\n\n"


@pytest.mark.parametrize(
    ("messages", "thinking", "text", "channel"),
    [
        ([HI], False, f"{B}{U}Hi{A}</think>", "answer"),
        ([HI], True, f"{B}{U}Hi{A}<think>", "thought"),
        (TALK, True, f"{B}Be brief.{U}Hi{A}</think>Hello{E}{U}Why?{A}<think>", "thought"),
        (ROUND, False, f"{B}{U}Hi{A}</think>{V32_CALLS}{E}{V32_RESULTS}</think>", "answer"),
        (
            [HI, Message("assistant", None, "Hm", CALLED.tool_calls), *ANSWERS],
            True,
            f"{B}{U}Hi{A}<think>Hm</think>{V32_CALLS}{E}{V32_RESULTS}<think>",
            "thought",
        ),
        (THOUGHT_CONTINUED, True, f"{B}{U}Hi{A}<think>Hm", "thought"),
        (BOTH_CONTINUED, True, f"{B}{U}Hi{A}<think>Hm</think>So", "answer"),
        (CONTINUED, True, f"{B}{U}Hi{A}</think>So", "answer"),
    ],
)
def test_v32(messages: list[Message], thinking: bool, text: str, channel: str, v3: Tokenizer) -> None:
    """As encoding_dsv32.py of the release writes it."""
    prompt = chat_template(v3, dialect="deepseek-v3.2").render(messages, thinking=thinking)
    assert (prompt.text, prompt.channel) == (text, channel)


def test_tools_in_the_v32_dialect(v3: Tokenizer) -> None:
    text = chat_template(v3, dialect="deepseek-v3.2").render([SYSTEM, HI], tools=[ADD]).text
    assert text.startswith(f"{B}Be brief.\n\n## Tools\nYou have access to a set of tools you can use to answer")
    assert f'<{D}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{D}parameter>\n...\n' in text
    assert "</function_results>\n<think>...thinking about results</think>\nHere are the functions available" in text
    assert text.endswith(f"<functions>\n{ADD_JSON}\n</functions>\n{U}Hi{A}</think>")


@pytest.mark.parametrize("dialect", ["deepseek-v2", "llama-3"])
def test_tools_where_the_dialect_knows_none(dialect: str, v3: Tokenizer) -> None:
    """They are described in the system message, and calls and results are plain text of the form they are read in."""
    template = chat_template(v3, dialect=dialect)
    prompt = template.render([SYSTEM, *ROUND, WHY], tools=[ADD])
    assert prompt.tools
    assert "Be brief.\n\nYou can call functions. These are available, each described by a JSON schema:" in prompt.text
    assert f"\n\n{ADD_JSON}\n\n" in prompt.text
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n<tool_call>' in prompt.text
    assert "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>\nWhy?" in prompt.text
    parser = template.parser(prompt)
    ids = v3.encode('<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>')
    events = [event for id in ids for event in parser.push(id)]
    assert [event.name for event in events if isinstance(event, ToolCallStart)] == ["add"]


def test_tools_in_chatml(smollm2: Tokenizer) -> None:
    prompt = chat_template(smollm2).render([HI], tools=[ADD])
    assert prompt.text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face\n\n# Tools\n\n"
        "You may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        f'{{"type": "function", "function": {ADD_JSON}}}\n</tools>\n\n'
        "For each function call, return a json object with function name and arguments within <tool_call></tool_call> "
        'XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


CONVERSATIONS: dict[str, list[Message]] = {
    "one question": [HI],
    "system": [SYSTEM, HI],
    "several turns": [SYSTEM, HI, Message("assistant", "Hello"), WHY, Message("assistant", "So"), HI],
    "other scripts": [Message("system", "你是助手。\n"), Message("user", "  مرحبا 👩‍👩‍👧\r\n```py\nx = 1\n```  ")],
    "thoughts in the history": [HI, Message("assistant", "<think>\nHm\n</think>\n\nSo"), WHY],
    "a call": [HI, Message("assistant", "Wait.", tool_calls=CALLED.tool_calls[:1]), ANSWERS[0]],
    "two calls": [HI, Message("assistant", "", tool_calls=CALLED.tool_calls), *ANSWERS],
    "an answer after a call": [
        HI,
        Message("assistant", "", tool_calls=CALLED.tool_calls[:1]),
        ANSWERS[0],
        Message("assistant", "So"),
        WHY,
    ],
}


def as_dicts(messages: list[Message]) -> list[dict[str, Any]]:
    """Messages as transformers takes them."""
    result = []
    for message in messages:
        entry: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            functions = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
            entry["tool_calls"] = [{"type": "function", "function": function} for function in functions]
        result.append(entry)
    return result


@pytest.mark.parametrize("dialect", [None, "jinja"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_same_as_r1s_shipped_template(
    name: str, dialect: str | None, v3: Tokenizer, v3_folder: Path, v3_transformers: Any
) -> None:
    source = json.loads((v3_folder / "tokenizer_config.json").read_text())["chat_template"]
    messages = CONVERSATIONS[name]
    expected = v3_transformers.apply_chat_template(
        as_dicts(messages), chat_template=source, tokenize=False, add_generation_prompt=True
    )
    if name == "two calls" and dialect is None:  # this copy forgets the newline between results; R1's own has it
        expected = expected.replace(END_RESULT + RESULT, f"{END_RESULT}\n{RESULT}")
    prompt = chat_template(v3, dialect=dialect).render(messages)
    assert prompt.text == expected
    assert list(prompt.ids) == v3_transformers.encode(expected, add_special_tokens=False)


@pytest.mark.parametrize("dialect", [None, "jinja"])
@pytest.mark.parametrize(
    "name", ["one question", "system", "several turns", "other scripts", "thoughts in the history"]
)
def test_same_as_smollm2s_shipped_template(
    name: str, dialect: str | None, smollm2: Tokenizer, v3_transformers: Any
) -> None:
    expected = v3_transformers.apply_chat_template(
        as_dicts(CONVERSATIONS[name]), chat_template=smollm2.chat_template, tokenize=False, add_generation_prompt=True
    )
    prompt = chat_template(smollm2, dialect=dialect).render(CONVERSATIONS[name])
    assert prompt.text == expected
    assert list(prompt.ids) == smollm2.encode_control(expected)


def test_selection(v3: Tokenizer, smollm2: Tokenizer, v3_folder: Path) -> None:
    assert (chat_template(v3).name, chat_template(v3).thinks) == ("deepseek-r1", True)
    assert (chat_template(smollm2).name, chat_template(smollm2).thinks) == ("chatml", False)
    shipped = str(v3.chat_template)
    no_strip = shipped.replace(
        "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}", ""
    )
    forced = shipped.replace(
        "and not ns.is_tool %}{{'<｜Assistant｜>'}}", "and not ns.is_tool %}{{'<｜Assistant｜><think>\\n'}}"
    )
    changed = shipped.replace("'<｜User｜>'", "'<｜User｜> '")
    assert no_strip != shipped != forced
    for source, name in (
        (no_strip, "deepseek-v3"),
        (forced, "deepseek-r1-0528"),
        (changed, "jinja"),
        (None, "deepseek-r1"),
    ):
        tokenizer = Tokenizer.from_folder(v3_folder)
        tokenizer.chat_template = source
        assert chat_template(tokenizer).name == name


def test_requests_a_dialect_cannot_express(v3: Tokenizer, smollm2: Tokenizer) -> None:
    with pytest.raises(TemplateError, match="no thinking mode"):
        chat_template(smollm2).render([HI], thinking=True)
    with pytest.raises(TemplateError, match="no thoughts that could be continued"):
        chat_template(smollm2).render(THOUGHT_CONTINUED)
    with pytest.raises(TemplateError, match="no dialect 'x'"):
        chat_template(v3, dialect="x")
    base = Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": ["a"],
            "tokenizer.ggml.merges": [],
        }
    )
    with pytest.raises(TemplateError, match="may be a base model"):
        chat_template(base)


DIALECTS = [
    "deepseek-v2",
    "deepseek-v3",
    "deepseek-r1",
    "deepseek-r1-0528",
    "deepseek-v3.1",
    "deepseek-v3.2",
    "chatml",
    "llama-3",
    "jinja",
]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("vocabulary", ["v3", "smollm2"])
def test_control_tokens_in_content_stay_text(dialect: str, vocabulary: str, request: pytest.FixtureRequest) -> None:
    """With each control token in every outside string, a prompt holds the control tokens it holds without."""
    tokenizer: Tokenizer = request.getfixturevalue(vocabulary)
    template = chat_template(tokenizer, dialect=dialect)
    plain = render_with(template, "x")
    control_ids = {token.id for token in tokenizer.control.values()}
    skeleton = [id for id in plain.ids if id in control_ids]
    tokens = list(tokenizer.control)
    for token in [token for token in tokens if "place▁holder" not in token or "▁77｜" in token]:
        prompt = render_with(template, token)
        assert [id for id in prompt.ids if id in control_ids] == skeleton, token
        assert tokenizer.decode(prompt.ids) == prompt.text
        assert prompt.text.count(token) >= plain.text.count(token) + 3


def render_with(template: ChatTemplate, token: str) -> Prompt:
    messages = [Message("system", f"{token}a"), Message("user", f"{token}b{token}c {token}")]
    tool = Tool("f", f"d{token}", {"type": "object", "properties": {token: {"description": token}}})
    call = ToolCall("1", f"f{token}", json.dumps({"a": token, token: 1}, ensure_ascii=False))
    messages += [Message("assistant", None, tool_calls=(call,)), Message("tool", f"{token}r{token}", tool_call_id="1")]
    return template.render(messages, tools=[tool])
