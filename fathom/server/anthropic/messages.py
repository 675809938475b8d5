"""POST /anthropic/v1/messages and its count_tokens: from validated fields to an engine request and its answer."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from starlette.responses import Response

from fathom.engine import Engine
from fathom.engine.request import Request
from fathom.search.restriction import Restriction
from fathom.server.answers import respond
from fathom.server.anthropic.events import MessageEvents
from fathom.server.anthropic.fields import CountFields, MessagesFields, ToolResultBlock, WebSearchTool
from fathom.server.anthropic.turns import conversation, tools
from fathom.server.config import ServerConfig
from fathom.server.dialects import ANTHROPIC
from fathom.server.errors import bad_request
from fathom.server.forms import Form
from fathom.server.generation import Generation
from fathom.server.models import ALIASES
from fathom.server.searched import SearchedGeneration, finder
from fathom.server.service import Service
from fathom.text import Message, Prompt, TextError


async def answer_messages(engine: Engine, service: Service, config: ServerConfig, fields: MessagesFields) -> Response:
    """The response to a conversation; every refusal is an ApiError raised before the first header."""
    thinking, warnings = thinking_of(fields, engine)
    request = await asyncio.to_thread(engine_request, fields, engine, thinking)
    generation: Generation | SearchedGeneration
    if fields.web_search is not None:
        generation = _searched(fields, fields.web_search, engine, service, request, thinking)
    else:
        generation = Generation(service, engine, [request], fields.model)
    maker = MessageEvents(fields.model, len(request.prompt.ids), fields.max_tokens)
    return respond(
        generation,
        maker,
        config,
        stream=fields.stream,
        warnings=[*warnings, *_without_effect(fields)],
        dialect=ANTHROPIC,
        opening=maker.opening(),
    )


def _searched(
    fields: MessagesFields, tool: WebSearchTool, engine: Engine, service: Service, request: Request, thinking: bool
) -> SearchedGeneration:
    """The generation that searches first; `request` is what would be asked without."""
    restriction = Restriction(
        sites=frozenset(tool.allowed_domains or ()), blocked_sites=frozenset(tool.blocked_domains or ())
    )

    def render(found: Sequence[Message]) -> list[Request]:
        return [replace(request, prompt=engine.render(found, thinking=thinking))]

    find = finder(service, engine, conversation(fields), restriction=restriction)
    return SearchedGeneration(service, engine, find, render, fields.model, 1)


async def count_tokens(engine: Engine, fields: CountFields) -> dict[str, Any]:
    """How many tokens the prompt of this conversation has, counted by rendering it."""
    thinking, _ = thinking_of(fields, engine)
    prompt = await asyncio.to_thread(_prompt, fields, engine, thinking)
    return {"input_tokens": len(prompt.ids)}


def thinking_of(fields: CountFields, engine: Engine) -> tuple[bool, list[str]]:
    """Whether the model shall think: as `thinking` says, else only for `deepseek-reasoner`; and warnings.

    Anthropic's clients name Claude's models by default; as at DeepSeek's endpoint every name is answered.
    """
    warnings = []
    if fields.model != engine.model_name and fields.model not in ALIASES:
        warnings.append(f"answered by {engine.model_name}: there is no {fields.model} here")
    if fields.thinking is not None:
        asked = fields.thinking.type != "disabled"
    else:
        asked = fields.model in ALIASES and ALIASES[fields.model].thinks is True
    if asked and not engine.template.thinks:
        warnings.append(f"{engine.model_name} cannot think: answered without thoughts")
    return asked and engine.template.thinks, warnings


def engine_request(fields: MessagesFields, engine: Engine, thinking: bool) -> Request:
    """Render and tokenise the conversation: slow for long ones, so call it in a thread. Raises ApiError."""
    params = engine.defaults.params(
        max_tokens=fields.max_tokens,
        temperature=fields.temperature,
        top_p=fields.top_p,
        top_k=fields.top_k,
        stop=tuple(fields.stop_sequences or ()),
    )
    budget = fields.thinking.budget_tokens if thinking and fields.thinking else None
    salt = fields.metadata.user_id if fields.metadata else None
    prompt = _prompt(fields, engine, thinking)
    constraint = form_of(fields).constraint(engine)
    return Request(prompt, params, salt=salt, max_thought_tokens=budget, constraint=constraint)


def _prompt(fields: CountFields, engine: Engine, thinking: bool) -> Prompt:
    form = form_of(fields)
    try:
        return engine.render(form.messages(conversation(fields)), tools=form.offered, thinking=thinking)
    except TextError as error:
        raise bad_request(str(error), "messages") from error


def form_of(fields: CountFields) -> Form:
    """What the request demands of the answer's form."""
    choice = fields.tool_choice if fields.web_search is None else None  # web_search is not the model's to call
    wanted = fields.output_config.format if fields.output_config else None
    named = (choice.name or "",) if choice is not None and choice.type == "tool" else None
    kinds: dict[str, Literal["auto", "required", "none"]] = {"auto": "auto", "any": "required", "none": "none"}
    return Form(
        schema=wanted.schema_ if wanted else None,
        shown=wanted is not None,
        tools=tools(fields),
        choice=named or kinds[choice.type if choice is not None else "auto"],
        parallel=not (choice is not None and choice.disable_parallel_tool_use),
    )


def _without_effect(fields: MessagesFields) -> list[str]:
    """What was asked for that this version cannot do while the answer survives."""
    warnings = []
    if fields.output_config is not None and fields.output_config.effort is not None:
        warnings.append("output_config.effort has no effect: the model knows only thinking and not")
    blocks = [block for turn in fields.messages if not isinstance(turn.content, str) for block in turn.content]
    if any(isinstance(block, ToolResultBlock) and block.is_error for block in blocks):
        warnings.append("is_error has no effect: templates have no place for it, so say it in the result's text")
    return warnings
