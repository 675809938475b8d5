"""Which template a checkpoint gets."""

import re
from collections.abc import Callable, Iterator

from fathom.text.errors import TemplateError
from fathom.text.messages import Message, Tool, ToolCall
from fathom.text.parser.dsml_calls import DSML
from fathom.text.templates.chatml import ChatML
from fathom.text.templates.deepseek import DeepSeekV2, DeepSeekV3, DeepSeekV31
from fathom.text.templates.deepseek_v32 import DeepSeekV32
from fathom.text.templates.jinja import JinjaTemplate
from fathom.text.templates.llama3 import Llama3
from fathom.text.templates.prompt import Prompt
from fathom.text.templates.template import ChatTemplate
from fathom.text.tokenizer import Tokenizer

_DIALECTS: dict[str, Callable[[Tokenizer], ChatTemplate]] = {
    "deepseek-v2": DeepSeekV2,
    "deepseek-v3": lambda tokenizer: DeepSeekV3(tokenizer, "deepseek-v3"),
    "deepseek-r1": lambda tokenizer: DeepSeekV3(tokenizer, "deepseek-r1"),
    "deepseek-r1-0528": lambda tokenizer: DeepSeekV3(tokenizer, "deepseek-r1-0528"),
    "deepseek-v3.1": DeepSeekV31,
    "deepseek-v3.2": DeepSeekV32,
    "chatml": ChatML,
    "chatml-think": lambda tokenizer: ChatML(tokenizer, thinks=True),
    "llama-3": Llama3,
}
_CALL = ToolCall("0", "look_up", '{"word": "a"}')
_TALK = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Why?"))
_CALLED = (Message("user", "Hi"), Message("assistant", "", tool_calls=(_CALL,)), Message("tool", "b", tool_call_id="0"))
_TOOLS = (Tool("look_up", "Looks a word up.", {"type": "object", "properties": {"word": {"type": "string"}}}),)


def chat_template(tokenizer: Tokenizer, *, dialect: str | None = None) -> ChatTemplate:
    """The template of a model: one of our encoders if it writes exactly what the checkpoint's own template writes.

    The two are compared on a few conversations, so a fine-tune that changed its template keeps its own, which then runs
    in the sandbox. Without a template the vocabulary's control tokens decide. `dialect` overrides all this ("jinja" for
    the checkpoint's own). Raises TemplateError where nothing fits.
    """
    if dialect == "jinja" and tokenizer.chat_template:
        return JinjaTemplate(tokenizer, tokenizer.chat_template)
    if dialect is not None:
        if dialect not in _DIALECTS:
            raise TemplateError(f"there is no dialect {dialect!r}; there are {', '.join(_DIALECTS)}")
        return _DIALECTS[dialect](tokenizer)
    if tokenizer.chat_template is None:
        return _by_tokens(tokenizer)
    own = JinjaTemplate(tokenizer, tokenizer.chat_template)
    return next((ours for ours in _candidates(own) if _same(ours, own)), own)


def _by_tokens(tokenizer: Tokenizer) -> ChatTemplate:
    if {"<｜User｜>", "<｜Assistant｜>"} <= tokenizer.control.keys():
        if tokenizer.id_of(DSML) is not None:
            return DeepSeekV32(tokenizer)
        return _DIALECTS["deepseek-r1" if "<think>" in tokenizer.control else "deepseek-v3"](tokenizer)
    for token, dialect in (
        ("<|im_start|>", "chatml"),
        ("<|start_header_id|>", "llama-3"),
        ("<｜begin▁of▁sentence｜>", "deepseek-v2"),
    ):
        if token in tokenizer.control:
            return _DIALECTS[dialect](tokenizer)
    raise TemplateError(
        "this model has no chat template, and its vocabulary tells no dialect: it may be a base model, for plain "
        f"completions; otherwise name its dialect, one of {', '.join(_DIALECTS)}"
    )


def _candidates(own: JinjaTemplate) -> Iterator[ChatTemplate]:
    """Encoders worth a comparison. V3 and the first R1 write the same; only R1's template knows of thoughts."""
    tokenizer = own.tokenizer
    if "<｜User｜>" in tokenizer.control:
        names = ("deepseek-v3.1", "deepseek-r1-0528", "deepseek-r1") if own.thinks else ("deepseek-v3",)
        yield from (_DIALECTS[name](tokenizer) for name in names)
    elif "<|im_start|>" in tokenizer.control and not own.thinks:
        yield ChatML(tokenizer, _default_system(own))
    elif "<|start_header_id|>" in tokenizer.control:
        yield Llama3(tokenizer)
    elif "<｜begin▁of▁sentence｜>" in tokenizer.control:
        yield DeepSeekV2(tokenizer)


def _default_system(own: JinjaTemplate) -> str | None:
    """The system message that a ChatML template adds where there is none."""
    try:
        prompt = own.render(_TALK[1:2])
    except TemplateError:
        return None  # then the comparison fails too, and requests say why
    found = re.match(r"<\|im_start\|>system\n(.*?)<\|im_end\|>", prompt.text, re.DOTALL)
    return found.group(1) if found else None


def _same(ours: ChatTemplate, own: JinjaTemplate) -> bool:
    """Whether both write the same prompts, as far as the checkpoint's template goes."""
    requests: list[Callable[[ChatTemplate], Prompt]] = [
        lambda template: template.render(_TALK[1:2]),
        lambda template: template.render(_TALK),
    ]
    if own.switches_thinking:
        requests.append(lambda template: template.render(_TALK, thinking=True))
    if own.describes_tools:
        requests.append(lambda template: template.render(_TALK, tools=_TOOLS))
        requests.append(lambda template: template.render(_CALLED, tools=_TOOLS))
    try:
        return all(request(ours).ids == request(own).ids for request in requests)
    except TemplateError:
        return False
