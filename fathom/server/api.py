"""The HTTP API as one FastAPI application: routes, error handlers, and the gate in front of them."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from fathom import __version__
from fathom.server import status
from fathom.server.anthropic.fields import CountFields, MessagesFields
from fathom.server.bodies import read_json
from fathom.server.config import ServerConfig
from fathom.server.deepseek.fields import ChatFields, CompletionFields, validated
from fathom.server.dialects import error_response
from fathom.server.errors import ApiError
from fathom.server.guard import Guard
from fathom.server.reference import CONTENT_SECURITY_POLICY, reference_page
from fathom.server.responses.fields import ResponseFields
from fathom.server.service import Service

# https://api-docs.deepseek.com: the version in the path means nothing; /beta opens prefix and FIM completion there.
PREFIXES = ("", "/v1", "/beta")


def create_app(service: Service, config: ServerConfig | None = None) -> FastAPI:
    """The API over `service`, which starts to load its model when the application starts."""
    config = config or ServerConfig()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = FastAPI(
        title="Fathom", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.service, app.state.config = service, config
    if config.allowed_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=config.allowed_origins, allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(Guard, config=config, metrics=service.metrics, accounts=service.accounts)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    for prefix in PREFIXES:
        app.include_router(_dialect(service, config), prefix=prefix, include_in_schema=prefix == "")
    app.include_router(_anthropic(service, config), prefix="/anthropic/v1")
    app.include_router(_about(service))
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        """The API as a page to read."""
        return HTMLResponse(reference_page(app.openapi()), headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})

    return app


def _dialect(service: Service, config: ServerConfig) -> APIRouter:
    """DeepSeek's and OpenAI's routes. What imports torch is imported after the engine has, off the event loop."""
    router = APIRouter()

    @router.post("/chat/completions", openapi_extra=_body("ChatFields"))
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation, streamed or not."""
        fields = validated(ChatFields, await read_json(request, config.max_json_depth))
        engine = await service.ready(config.loading_seconds)
        from fathom.server.deepseek.chat import answer_chat

        return await answer_chat(engine, service, config, fields)

    @router.post("/completions", openapi_extra=_body("CompletionFields"))
    async def completions(request: Request) -> Response:
        """Continue raw text or token ids; with `suffix`, fill the middle."""
        fields = validated(CompletionFields, await read_json(request, config.max_json_depth))
        engine = await service.ready(config.loading_seconds)
        from fathom.server.deepseek.completions import answer_completion

        return await answer_completion(engine, service, config, fields)

    @router.post("/responses", openapi_extra=_body("ResponseFields"))
    async def responses(request: Request) -> Response:
        """Answer in the form of OpenAI's Responses; nothing is kept."""
        fields = validated(ResponseFields, await read_json(request, config.max_json_depth))
        engine = await service.ready(config.loading_seconds)
        from fathom.server.responses.answer import answer_response

        return await answer_response(engine, service, config, fields)

    @router.get("/user/balance")
    async def balance() -> JSONResponse:
        """What the caller's key may still spend."""
        if service.accounts is None:
            raise ApiError(404, "This server keeps no accounts")
        return JSONResponse(service.accounts.balance())

    @router.get("/models")
    async def models() -> JSONResponse:
        """Every name that this server answers to."""
        return JSONResponse(status.model_list(service))

    @router.get("/models/{model_id:path}")
    async def model(model_id: str) -> JSONResponse:
        """One of them."""
        return JSONResponse(status.model_entry(service, model_id))

    return router


def _anthropic(service: Service, config: ServerConfig) -> APIRouter:
    """Anthropic's routes, under the path that DeepSeek gave them."""
    router = APIRouter()

    @router.post("/messages", openapi_extra=_body("MessagesFields"))
    async def messages(request: Request) -> Response:
        """Answer a conversation in Anthropic's form, streamed or not."""
        fields = validated(MessagesFields, await read_json(request, config.max_json_depth))
        engine = await service.ready(config.loading_seconds)
        from fathom.server.anthropic.messages import answer_messages

        return await answer_messages(engine, service, config, fields)

    @router.post("/messages/count_tokens", openapi_extra=_body("CountFields"))
    async def count(request: Request) -> JSONResponse:
        """How many tokens a conversation has."""
        fields = validated(CountFields, await read_json(request, config.max_json_depth))
        engine = await service.ready(config.loading_seconds)
        from fathom.server.anthropic.messages import count_tokens

        return JSONResponse(await count_tokens(engine, fields))

    return router


def _about(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    async def health() -> JSONResponse:
        """200 when answers can be had, 503 while loading, failed or draining; the body says which."""
        code, body = status.health(service)
        return JSONResponse(body, code, {} if code == 200 else {"Retry-After": "2"})

    @router.get("/metrics")
    async def metrics() -> PlainTextResponse:
        """Prometheus' text form."""
        return PlainTextResponse(status.metrics_text(service), media_type="text/plain; version=0.0.4")

    return router


async def _api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error_response(error, request.url.path)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    """What the framework itself refuses: paths that do not exist, methods that do not fit."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        refused = ApiError(405, f"{request.url.path} does not take {request.method}: use {allowed}")
    elif error.status_code == 404:
        refused = ApiError(404, f"There is nothing at {request.url.path}: see /docs or /openapi.json for what there is")
    else:
        refused = ApiError(400, str(error.detail))
    response = error_response(refused, request.url.path)
    response.headers.update(error.headers or {})
    return response


def _body(form: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{form}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The document with the forms of the bodies, which are validated by our own reader and not by FastAPI."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for form in (ChatFields, CompletionFields, ResponseFields, MessagesFields, CountFields):
            schema = form.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[form.__name__] = schema
        app.openapi_schema = document
    return app.openapi_schema
