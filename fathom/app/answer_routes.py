"""Routes of questions and of the answers under way."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from fathom.app.asking import FirstQuestion, Question, begin, check_quota
from fathom.app.context import Context, in_thread
from fathom.app.log import Chunk, EventLog
from fathom.app.people import Person
from fathom.server.dialects import Dialect, encode
from fathom.server.errors import ApiError
from fathom.server.sse import EventStream


def _app_event(chunk: Mapping[str, Any]) -> bytes:
    return f"id: {chunk['id']}\nevent: {chunk['event']}\n".encode() + b"data: " + encode(chunk["data"]) + b"\n\n"


EVENTS = Dialect(_app_event, ApiError.body)


def answer_routes(context: Context) -> APIRouter:
    """Routes of questions and of runs."""
    router = APIRouter()

    @router.post("/answers")
    async def ask_first(request: Request) -> Response:
        """The first question of a new chat."""
        person = await context.asking(request)
        form = await context.form(request, FirstQuestion)
        return await _answered(context, request, person, None, form)

    @router.post("/chats/{chat}/answers")
    async def ask(request: Request, chat: str) -> Response:
        """Ask, ask again, or go on."""
        person = await context.asking(request)
        form = await context.form(request, Question)
        return await _answered(context, request, person, chat, form)

    @router.get("/runs/{run}/events")
    async def events(request: Request, run: str, after: Annotated[int | None, Query(ge=0)] = None) -> Response:
        """What the run has said, and what it will say."""
        person = await context.asking(request)
        log = context.runs.get(person.id, run).log
        said = request.headers.get("last-event-id", "")
        number = after if after is not None else int(said) if said.isdecimal() and len(said) < 10 else 0
        return EventStream(log.after(number), context.config, {}, contextlib.nullcontext(), EVENTS)

    @router.post("/runs/{run}/stop")
    async def stop(request: Request, run: str) -> Response:
        """End it; what came stays."""
        person = await context.asking(request)
        answering = context.runs.get(person.id, run)
        answering.stop()
        await answering.finished.wait()
        return Response(status_code=204)

    @router.post("/runs/{run}/answer-now")
    async def answer_now(request: Request, run: str) -> Response:
        """End the thought."""
        person = await context.asking(request)
        context.runs.get(person.id, run).answer_now()
        return Response(status_code=204)

    return router


async def _answered(context: Context, request: Request, person: Person, chat: str | None, form: Question) -> Response:
    """Begin an answer. Who accepts an event stream gets its events at once, the others what it is called."""
    check_quota(person)
    context.runs.check_room(person.id)
    answering, asked = await in_thread(begin, context, person, chat, form)
    context.runs.start(answering)
    summary = await in_thread(answering.library.summary, answering.chat)
    answer = {**answering.message.json(), "run": answering.id, "sequence": 0}
    body = {"chat": {**summary, "run": answering.id}, "user": asked and asked.json(), "answer": answer}
    body["run"] = {"id": answering.id}
    if "text/event-stream" not in request.headers.get("accept", ""):
        return JSONResponse(body, 201)
    source = _begun(body, answering.log)
    return EventStream(source, context.config, {}, contextlib.nullcontext(), EVENTS)


async def _begun(body: dict[str, Any], log: EventLog) -> AsyncIterator[Sequence[Chunk]]:
    yield [{"id": 0, "event": "begun", "data": body}]
    async for chunks in log.after(0):
        yield chunks
