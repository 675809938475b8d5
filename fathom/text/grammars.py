"""Which texts an answer may be: grammars for JSON and for tool calls in each dialect, in llguidance's Lark syntax.

Only the text of grammars is made here; `fathom.engine.constraint` turns it into masks over the vocabulary. Tags that a
vocabulary has as control tokens are those tokens in the grammar, so no text can imitate them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fathom.text.errors import TextError
from fathom.text.messages import Tool
from fathom.text.parser.dsml_calls import DSML
from fathom.text.parser.formats import CallFormat
from fathom.text.tokenizer import Tokenizer

MAX_CALLS = 32  # of one answer; a small model would go on calling until its tokens are used up
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
_IS_TEXT, _IS_JSON = (
    json.dumps(f'"{word}">') for word in ("true", "false")
)  # V3.2's mark of what is text and what JSON
# White space in JSON: a space, or a new line and its indentation; without a bound small models write nothing else.
_WHITE_SPACE = {"whitespace_pattern": r"(\n? {0,20})"}
# llguidance reads a schema's numbers as doubles (RFC 8259, section 6): larger integers would change silently.
_EXACT_INTEGER = 2**53


class GrammarError(TextError):
    """What was asked for cannot be put into a grammar, or the grammar is not one."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """A form that an answer must have.

    Attributes:
        source: the grammar, in Lark's syntax; its `start` is the whole of what is constrained.
        begins: "answer": it holds from the first token after the thought; "call": from the tag that opens a tool call.
        repeats: once fulfilled, the answer is free again until it next begins; otherwise the answer is over.

    """

    source: str
    begins: Literal["answer", "call"]
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Calls:
    """Which tools may or must be called.

    Attributes:
        tools: those on offer, or only the one that must be called.
        required: whether the answer must be calls.
        parallel: whether there may be more than one.
        follow: names of the tools whose arguments follow their schema; those of others are any JSON object.

    """

    tools: Sequence[Tool]
    required: bool
    parallel: bool
    follow: frozenset[str]


def answer_grammar(
    tokenizer: Tokenizer, call_format: CallFormat | None, schema: Mapping[str, Any] | None, calls: Calls | None
) -> Grammar | None:
    """The grammar of an answer that is JSON of this schema, or tool calls, or either; None where it is free text."""
    if calls is None or call_format is None:
        return None if schema is None else Grammar(_answer(json_rule(schema)), "answer")
    rules = _WRITERS[call_format](tokenizer, calls)
    if schema is None and not calls.required:
        repeats = call_format is CallFormat.HERMES and calls.parallel
        return Grammar(rules.source(start=rules.inside), "call", repeats=repeats)
    start = rules.whole if schema is None or calls.required else f"{rules.whole} | {json_rule(schema)}"
    return Grammar(rules.source(start=f"/\\n{{0,2}}/ ({start})"), "answer")


def json_rule(schema: Mapping[str, Any]) -> str:
    """Any JSON text that the schema admits; raises GrammarError for integers that a double cannot hold."""
    _check_integers(schema)
    return "%json " + json.dumps({**schema, "x-guidance": _WHITE_SPACE}, ensure_ascii=True)


def _check_integers(schema: Mapping[str, Any]) -> None:
    left: list[object] = [schema]
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            left.extend(value.values())
        elif isinstance(value, list | tuple):
            left.extend(value)
        elif isinstance(value, int) and abs(value) > _EXACT_INTEGER:
            raise GrammarError(
                f"the schema holds {str(value)[:40]}: integers beyond 2^53 are not kept exactly; make it a string"
            )


def _answer(rule: str) -> str:
    return f"start: /\\n{{0,2}}/ {rule}\n"


@dataclass(frozen=True, slots=True)
class _Rules:
    """The grammar of calls: what stands behind the opening tag, the tag with it, and the rules both refer to."""

    inside: str
    whole: str
    rules: Sequence[str]

    def source(self, start: str) -> str:
        return "\n".join((f"start: {start}", *self.rules)) + "\n"


def _hermes(tokenizer: Tokenizer, calls: Calls) -> _Rules:
    opening, closing = _tag(tokenizer, "<tool_call>"), _tag(tokenizer, "</tool_call>")
    one = []
    for tool in calls.tools:
        head = _literal(f'{{"name": {json.dumps(tool.name)}, "arguments": ')
        one.append(f"{head} {json_rule(_arguments(tool, calls))} {_literal('}')}")
    rules = [f"inside: /\\n?/ call /\\n?/ {closing}", f"call: {_either(one)}"]
    more = f' ("\\n" {opening} inside){{0,{MAX_CALLS - 1}}}' if calls.parallel else ""
    return _Rules("inside", f"{opening} inside{more}", rules)


def _deepseek(tokenizer: Tokenizer, calls: Calls, *, fenced: bool) -> _Rules:
    def tag(name: str) -> str:
        return _tag(tokenizer, f"<｜tool▁{name}｜>")

    one = []
    for tool in calls.tools:
        arguments = json_rule(_arguments(tool, calls))
        if fenced:
            opened = _literal(tool.name + "\n```json\n")
            one.append(f'"function" {tag("sep")} {opened} {arguments} "\\n```"')
        else:
            one.append(f"{_literal(tool.name)} {tag('sep')} {arguments}")
    between = '"\\n" ' if fenced else ""
    more = f" ({between}call){{0,{MAX_CALLS - 1}}}" if calls.parallel else ""
    rules = [
        f"inside: call{more} {tag('calls▁end')}",
        f"call: {tag('call▁begin')} ({_either(one)}) {tag('call▁end')}",
    ]
    return _Rules("inside", f"{tag('calls▁begin')} inside", rules)


def _dsml(tokenizer: Tokenizer, calls: Calls) -> _Rules:
    mark = _tag(tokenizer, DSML)
    one = []
    for tool in calls.tools:
        head = _literal(f'invoke name="{tool.name}">' + "\n")
        one.append(f'"<" {mark} {head} {_parameters(tool, calls, mark)} "</" {mark} "invoke>\\n"')
    more = f"{{1,{MAX_CALLS}}}" if calls.parallel else ""
    # A greedy text ends where the mark, a control token, stands; where the mark is text too, at the closing tag.
    is_control = tokenizer.control_id(DSML) is not None
    text = (
        f'text: /(.|\\n)*<\\// {mark} "parameter>"' if is_control else f'text[suffix="</{DSML}parameter>"]: /(.|\\n)*/'
    )
    rules = [
        f'inside: "\\n" call{more} "</" {mark} "function_calls>"',
        f"call: {_either(one)}",
        text,
        f'any_parameter: "<" {mark} /parameter name="[^"\\n]+" string=/ ({_IS_TEXT} text | {_IS_JSON} %json {{}} '
        f'"</" {mark} "parameter>") "\\n"',
    ]
    return _Rules("inside", f'"<" {mark} "function_calls>" inside', rules)


def _parameters(tool: Tool, calls: Calls, mark: str) -> str:
    """One element for each property, in the schema's order; those not required may be left out."""
    schema = _arguments(tool, calls)
    properties = schema.get("properties") or {}
    if tool.name not in calls.follow or not properties:
        return "any_parameter*" if schema.get("additionalProperties", True) is not False else ""
    required = schema.get("required") or ()
    definitions = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    elements = []
    for name, given in properties.items():
        head = _literal(f"parameter name={json.dumps(name, ensure_ascii=False)} string=")
        element = f'"<" {mark} {head} ({_value(given, definitions, mark, f"{tool.name}.{name}")}) "\\n"'
        elements.append(f"({element})" if name in required else f"({element})?")
    return " ".join(elements)


def _value(schema: object, definitions: Mapping[str, Any], mark: str, where: str) -> str:
    """A parameter's value: text as it is where the schema says string, JSON otherwise."""
    schema = schema if isinstance(schema, Mapping) else {}
    end = f'"</" {mark} "parameter>"'
    choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if choices is not None and all(isinstance(choice, str) for choice in choices):
        return f"{_IS_TEXT} ({_either([_literal(choice) for choice in choices])}) {end}"
    if schema.get("type") == "string" and not schema.keys() & {"pattern", "format", "minLength", "maxLength"}:
        return f"{_IS_TEXT} text"
    if schema.get("type") in ("integer", "number", "boolean", "array", "object", "null"):
        return f"{_IS_JSON} {json_rule({**schema, **definitions})} {end}"
    raise GrammarError(
        f"the parameter {where} has a schema that this model's form of calls cannot follow: give it one type, and a "
        "string no pattern, format or length; or set strict to false"
    )


_WRITERS = {
    CallFormat.HERMES: _hermes,
    CallFormat.DEEPSEEK_V3: lambda tokenizer, calls: _deepseek(tokenizer, calls, fenced=True),
    CallFormat.DEEPSEEK_V31: lambda tokenizer, calls: _deepseek(tokenizer, calls, fenced=False),
    CallFormat.DEEPSEEK_V32: _dsml,
}


def _arguments(tool: Tool, calls: Calls) -> Mapping[str, Any]:
    if tool.name not in calls.follow:
        return ANY_OBJECT
    return {"type": "object", **(tool.parameters or {"properties": {}, "additionalProperties": False})}


def _tag(tokenizer: Tokenizer, name: str) -> str:
    id = tokenizer.control_id(name)
    return _literal(name) if id is None else f"<[{id}]>"


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _either(rules: Sequence[str]) -> str:
    return " | ".join(f"({rule})" for rule in rules)
