"""POST /responses: from validated fields to an engine request, and from events to either form of the response."""

import asyncio

from starlette.responses import Response

from fathom.engine import Engine
from fathom.engine.request import Request
from fathom.server.answers import respond
from fathom.server.config import ServerConfig
from fathom.server.deepseek.chat import thought_budget
from fathom.server.dialects import RESPONSES
from fathom.server.errors import bad_request
from fathom.server.forms import ANY_OBJECT, Form
from fathom.server.generation import Generation
from fathom.server.models import DEFAULT_MAX_TOKENS, DEFAULT_MAX_TOKENS_THINKING, thinking_asked
from fathom.server.responses.events import ResponseEvents
from fathom.server.responses.fields import NamedTool, ResponseFields, SchemaFormat
from fathom.server.responses.turns import conversation, tools
from fathom.server.service import Service
from fathom.text import TextError


async def answer_response(engine: Engine, service: Service, config: ServerConfig, fields: ResponseFields) -> Response:
    """The response; every refusal is an ApiError raised before the first header."""
    effort = fields.reasoning.effort if fields.reasoning else None
    thinking, warnings = thinking_asked(fields.model, None if effort is None else effort != "none", effort, engine)
    if fields.store:
        warnings.append("store has no effect: this server keeps nothing, so send the whole input each time")
    request = await asyncio.to_thread(engine_request, fields, engine, thinking)
    generation = Generation(service, engine, [request], fields.model)
    params = request.params
    maker = ResponseEvents(fields, params.temperature, params.top_p, params.max_tokens or 0)
    return respond(
        generation,
        maker,
        config,
        stream=bool(fields.stream),
        warnings=warnings,
        dialect=RESPONSES,
        opening=maker.opening(),
    )


def engine_request(fields: ResponseFields, engine: Engine, thinking: bool) -> Request:
    """Render and tokenise the input: slow for long ones, so call it in a thread. Raises ApiError."""
    form = form_of(fields)
    messages = conversation(fields)
    if not messages:
        raise bad_request("input has nothing to answer: send a message", "input")
    try:
        prompt = engine.render(form.messages(messages), tools=form.offered, thinking=thinking)
    except TextError as error:
        raise bad_request(str(error), "input") from error
    most = fields.max_output_tokens or (DEFAULT_MAX_TOKENS_THINKING if thinking else DEFAULT_MAX_TOKENS)
    params = engine.defaults.params(max_tokens=most, temperature=fields.temperature, top_p=fields.top_p)
    budget = thought_budget(params, prompt.channel, engine)
    constraint = form.constraint(engine)
    return Request(prompt, params, salt=fields.user_id, max_thought_tokens=budget, constraint=constraint)


def form_of(fields: ResponseFields) -> Form:
    """What the request demands of the answer's form."""
    wanted = fields.text.format if fields.text else None
    schema = wanted.schema_ if isinstance(wanted, SchemaFormat) else None
    choice = fields.tool_choice
    return Form(
        schema=ANY_OBJECT if wanted is not None and wanted.type == "json_object" else schema,
        shown=schema is not None,
        tools=tools(fields),
        choice=(choice.name,) if isinstance(choice, NamedTool) else choice or "auto",
        parallel=fields.parallel_tool_calls is not False,
    )
