"""A checkpoint's own template: thinking, continuing, tools, and strings that try to leave their place."""

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.text import Event, Message, TemplateError, Tokenizer, Tool, ToolCall
from fathom.text.templates.jinja import JinjaTemplate

HI = Message("user", "Hi")
PLAIN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
PLAIN += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
# In the manner of Qwen3: thoughts are separate, thinking is a switch, tools and calls are JSON.
SWITCH = (
    "{% for t in tools or [] %}{{ t.function.name }}: {{ t.function | tojson }}\n{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content | trim }}\n</think>\n\n{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls %}<tool_call>\n{{ c.function.name }} "
    "{{ c.function.arguments | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
FORCED = PLAIN.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")


def test_a_switch_for_thinking(smollm2: Tokenizer) -> None:
    template = JinjaTemplate(smollm2, SWITCH)
    assert template.thinks
    on, off = (template.render([HI], thinking=thinking) for thinking in (True, False))
    assert (on.text.endswith("assistant\n<think>\n"), on.channel) == (True, "thought")
    assert (off.text.endswith("<think>\n\n</think>\n\n"), off.channel) == (True, "answer")


def test_a_template_that_always_thinks_can_be_kept_from_it(smollm2: Tokenizer) -> None:
    template = JinjaTemplate(smollm2, FORCED)
    assert template.render([HI], thinking=True).text.endswith("assistant\n<think>\n")
    off = template.render([HI])
    assert (off.text.endswith("assistant\n<think>\n\n</think>\n\n"), off.channel) == (True, "answer")


def test_continuing(smollm2: Tokenizer) -> None:
    template = JinjaTemplate(smollm2, SWITCH)
    said = template.render([HI, Message("assistant", "So ", prefix=True)])
    assert (said.text, said.channel) == ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nSo ", "answer")
    thought = template.render([HI, Message("assistant", "", "Hm", prefix=True)], thinking=True)
    assert (thought.text[-10:], thought.channel) == ("<think>\nHm", "thought")
    with pytest.raises(TemplateError, match="leaves out what should be continued"):
        JinjaTemplate(smollm2, "{{ messages[0].content }}").render([HI, Message("assistant", "So", prefix=True)])


def test_arguments_as_objects_or_text(smollm2: Tokenizer, v3: Tokenizer) -> None:
    call = ToolCall("1", "f", '{"a": "é"}')
    talk = [HI, Message("assistant", "", tool_calls=(call,)), Message("tool", "x", tool_call_id="1")]
    assert '<tool_call>\nf {"a": "é"}</tool_call>' in JinjaTemplate(smollm2, SWITCH).render(talk).text
    text = SWITCH.replace("arguments | tojson", "arguments")
    assert 'f {"a": "é"}</tool_call>' in JinjaTemplate(smollm2, text).render(talk).text
    broken = [HI, Message("assistant", "", tool_calls=(ToolCall("1", "f", "{oh"),)), talk[-1]]
    assert "f {oh</tool_call>" in JinjaTemplate(smollm2, text).render(broken).text


def test_tools_and_calls(smollm2: Tokenizer, joined: Callable[[Iterable[Event]], list[tuple[str, ...]]]) -> None:
    template = JinjaTemplate(smollm2, SWITCH)
    prompt = template.render([HI], tools=[Tool("f", "<|im_end|>")])
    assert prompt.text.startswith('f: {"name": "f", "description": "<|im_end|>"')
    parser = template.parser(prompt)
    ids = smollm2.encode('<tool_call>{"name": "f", "arguments": {}}</tool_call>')
    assert joined([event for id in ids for event in parser.push(id)] + parser.finish()) == [
        ("Call", "0", "f", "{}", "end")
    ]
    assert '"name": "f"' in JinjaTemplate(smollm2, PLAIN).render([HI], tools=[Tool("f")]).text  # described by us
    with pytest.raises(TemplateError, match="no thinking mode"):
        JinjaTemplate(smollm2, PLAIN).render([HI], thinking=True)


def test_markup_in_a_users_text_does_not_reach_the_templates_logic(v3: Tokenizer) -> None:
    source = "{% for m in messages %}<｜User｜>{{ m.content.split('</think>')[-1] }}{% endfor %}"
    prompt = JinjaTemplate(v3, source).render([Message("user", "a</think>b")])
    assert prompt.text == "<｜User｜>a</think>b"
    assert v3.id_of("</think>") not in prompt.ids


FRAGMENTS = [
    "<|im_",
    "start|>",
    "<|im_start|>",
    "<",
    "|>",
    "<|",
    "im_end",
    "<|im_end|",
    ">",
    "a",
    "\n",
    "<|im_start|>system\n",
]


@given(
    parts=st.lists(st.sampled_from(FRAGMENTS), min_size=3, max_size=9),
    cuts=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
@settings(max_examples=60, deadline=None)
def test_no_control_token_can_be_pieced_together(parts: list[str], cuts: tuple[int, int], smollm2: Tokenizer) -> None:
    """Not across two strings side by side, nor with what the template itself writes around them."""
    first, second = sorted(cuts)
    name, content = "".join(parts[:first]), "".join(parts[second:])
    source = "<|im_start|>{{ messages[0].name }}{{ messages[0].content }}|><|im_{{ messages[0].name }}<|im_end|>"
    prompt = JinjaTemplate(smollm2, source).render([Message("user", content, name=name)])
    control = {token.id for token in smollm2.control.values()}
    assert [id for id in prompt.ids if id in control] == [1, 2]
    assert prompt.text == f"<|im_start|>{name}{content}|><|im_{name}<|im_end|>"


def test_a_failing_template_says_why(smollm2: Tokenizer) -> None:
    with pytest.raises(TemplateError, match=r"chat template failed.*only users"):
        JinjaTemplate(smollm2, "{{ raise_exception('only users') }}").render([HI])
