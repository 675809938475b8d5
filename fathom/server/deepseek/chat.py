"""POST /chat/completions: from validated fields to engine requests, and from events to either form of the answer."""

import asyncio
import dataclasses
from collections.abc import Sequence

from starlette.responses import Response

from fathom.engine import Engine
from fathom.engine.defaults import GenerationDefaults
from fathom.engine.request import Request
from fathom.engine.sampling import SamplingParams
from fathom.search.restriction import Restriction
from fathom.search.searching import DEFAULT_SOURCES
from fathom.server.answers import respond
from fathom.server.config import ServerConfig
from fathom.server.deepseek import rules
from fathom.server.deepseek.accounts import fingerprint
from fathom.server.deepseek.answers import choices, includes_usage, sampling_params
from fathom.server.deepseek.chunks import ChatChunks
from fathom.server.deepseek.fields import (
    AssistantMessage,
    ChatFields,
    ChatMessage,
    Content,
    FunctionTool,
    NamedToolChoice,
    SearchOptions,
    ToolMessage,
)
from fathom.server.errors import bad_request
from fathom.server.forms import ANY_OBJECT, Form
from fathom.server.generation import Generation
from fathom.server.models import ANSWER_TOKENS, DEFAULT_MAX_TOKENS, DEFAULT_MAX_TOKENS_THINKING, thinking_asked
from fathom.server.searched import SearchedGeneration, finder
from fathom.server.service import Service
from fathom.text import Channel, Message, TextError, Tool, ToolCall


async def answer_chat(engine: Engine, service: Service, config: ServerConfig, fields: ChatFields) -> Response:
    """The response to a chat request; every refusal is an ApiError raised before the first header."""
    switch = None if fields.thinking is None else fields.thinking.type == "enabled"
    thinking, warnings = thinking_asked(fields.model, switch, fields.reasoning_effort, engine)
    rules.check(config.strict, fields, thinking)
    request = await asyncio.to_thread(engine_request, fields, engine, thinking)
    n = fields.n or 1
    generation: Generation | SearchedGeneration
    if fields.search:
        generation = _searched(fields, engine, service, request, thinking)
    else:
        generation = Generation(service, engine, choices(request, n), fields.model)
    chunks = ChatChunks(
        fields.model,
        fingerprint(engine.model_name, engine.runner.name),
        engine.tokenizer.token_bytes,
        n=n,
        include_usage=includes_usage(fields),
    )
    return respond(generation, chunks, config, stream=bool(fields.stream), warnings=warnings)


def engine_request(fields: ChatFields, engine: Engine, thinking: bool) -> Request:
    """Render and tokenise the conversation: slow for long ones, so call it in a thread. Raises ApiError."""
    form = form_of(fields)
    messages = form.messages([_message(message) for message in fields.messages])
    try:
        prompt = engine.render(messages, tools=form.offered, thinking=thinking)
    except TextError as error:
        raise bad_request(str(error), "messages") from error
    params = chat_params(fields, engine.defaults, thinking)
    budget = thought_budget(params, prompt.channel, engine)
    constraint = form.constraint(engine)
    return Request(prompt, params, salt=fields.user_id, max_thought_tokens=budget, constraint=constraint)


def thought_budget(params: SamplingParams, channel: Channel, engine: Engine) -> int | None:
    """How long a thought may be so that an answer still fits; it also ends where it goes round in circles."""
    if channel == "answer" or not engine.template.thinks or params.max_tokens is None:
        return None
    most = min(params.max_tokens, engine.max_tokens)
    return max(1, most - min(most // 4, ANSWER_TOKENS))


def _searched(
    fields: ChatFields, engine: Engine, service: Service, request: Request, thinking: bool
) -> SearchedGeneration:
    """The generation that searches first; `request` is what would be asked without."""
    n = fields.n or 1
    options = fields.search if isinstance(fields.search, SearchOptions) else SearchOptions()
    restriction = Restriction(
        frozenset(options.engines or ()), frozenset(options.sites or ()), frozenset(options.blocked_sites or ())
    )

    def render(found: Sequence[Message]) -> list[Request]:
        return choices(dataclasses.replace(request, prompt=engine.render(found, thinking=thinking)), n)

    messages = [_message(message) for message in fields.messages]
    find = finder(service, engine, messages, restriction=restriction, k=options.max_results or DEFAULT_SOURCES)
    return SearchedGeneration(service, engine, find, render, fields.model, n)


def form_of(fields: ChatFields) -> Form:
    """What the request demands of the answer's form."""
    wanted = fields.response_format
    schema = None
    if wanted is not None and wanted.type != "text":
        schema = ANY_OBJECT if wanted.json_schema is None else wanted.json_schema.schema_
    choice = fields.tool_choice
    return Form(
        schema=schema,
        shown=wanted is not None and wanted.json_schema is not None,
        tools=[_tool(tool.function) for tool in fields.tools or ()],
        choice=(choice.function.name,) if isinstance(choice, NamedToolChoice) else choice or "auto",
        parallel=fields.parallel_tool_calls is not False,
    )


def chat_params(fields: ChatFields, defaults: GenerationDefaults, thinking: bool) -> SamplingParams:
    """How the answer's tokens are chosen."""
    most = fields.max_tokens or fields.max_completion_tokens
    most = most or (DEFAULT_MAX_TOKENS_THINKING if thinking else DEFAULT_MAX_TOKENS)
    logprobs = (fields.top_logprobs or 0) if fields.logprobs else None
    return sampling_params(fields, defaults, most, logprobs)


def _text(content: Content) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.text for part in content)


def _tool(function: FunctionTool) -> Tool:
    return Tool(function.name, function.description or "", function.parameters, strict=bool(function.strict))


def _message(message: ChatMessage) -> Message:
    if isinstance(message, AssistantMessage):
        calls = [ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()]
        return Message(
            "assistant",
            None if message.content is None else _text(message.content),
            reasoning_content=message.reasoning_content,
            tool_calls=calls,
            name=message.name,
            prefix=message.prefix,
        )
    call_id = message.tool_call_id if isinstance(message, ToolMessage) else None
    return Message(message.role, _text(message.content), tool_call_id=call_id, name=message.name)
