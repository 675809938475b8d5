"""What a person keeps beside the chats: prompts, memories, shared links."""

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from fathom.app import notes, shares
from fathom.app.asking import Id
from fathom.app.context import Context, changes, in_thread
from fathom.server.deepseek.fields import Strict
from fathom.server.errors import bad_request

Text = Annotated[str, Field(min_length=1, max_length=32_768)]
Title = Annotated[str, Field(min_length=1, max_length=200)]


class NewPrompt(Strict):
    """`POST prompts`."""

    title: Title
    text: Text


class PromptChange(Strict):
    """`PATCH prompts/{id}`."""

    title: Title = "-"
    text: Text = "-"


class Memory(Strict):
    """`POST memories`, `PATCH memories/{id}`."""

    text: Annotated[str, Field(min_length=1, max_length=1000)]


class Share(Strict):
    """`POST chats/{id}/share`."""

    head: Id | None = None
    thoughts: bool = True


def note_routes(context: Context) -> APIRouter:
    """Prompts and memories."""
    router = APIRouter()
    _note_routes(router, context, "prompt", "prompts", NewPrompt, PromptChange)
    _note_routes(router, context, "memory", "memories", Memory, Memory)
    return router


def _note_routes(
    router: APIRouter, context: Context, kind: notes.Kind, plural: str, new: type[Strict], change: type[Strict]
) -> None:
    @router.get(f"/{plural}")
    async def every(request: Request) -> JSONResponse:
        person = await context.asking(request)
        return JSONResponse({plural: await in_thread(notes.every, context.database, person.id, kind)})

    @router.post(f"/{plural}")
    async def add(request: Request) -> JSONResponse:
        person = await context.asking(request)
        form = await context.form(request, new)
        note = await in_thread(notes.add, context.database, person.id, kind, **form.model_dump())
        return JSONResponse(note, 201)

    @router.patch(f"/{plural}/{{identity}}")
    async def write(request: Request, identity: str) -> Response:
        person = await context.asking(request)
        values = changes(await context.form(request, change))
        if values:
            await in_thread(notes.change, context.database, person.id, kind, identity, values)
        return Response(status_code=204)

    @router.delete(f"/{plural}/{{identity}}")
    async def remove(request: Request, identity: str) -> Response:
        person = await context.asking(request)
        await in_thread(notes.remove, context.database, person.id, kind, identity)
        return Response(status_code=204)


def share_routes(context: Context) -> APIRouter:
    """Links to read a chat by."""
    router = APIRouter()

    @router.post("/chats/{chat}/share")
    async def share(request: Request, chat: str) -> JSONResponse:
        """Freeze a branch behind a link."""
        person = await context.asking(request)
        form = await context.form(request, Share)
        library = context.library(person, chat)
        if library.temporary:
            raise bad_request("A temporary chat cannot be shared: nothing of it is kept")
        found = await in_thread(library.chat, chat)
        shared = await in_thread(
            shares.share, context.database, person.id, found, head=form.head, thoughts=form.thoughts
        )
        return JSONResponse(shared, 201)

    @router.get("/shares")
    async def every(request: Request) -> JSONResponse:
        """What is shared."""
        person = await context.asking(request)
        return JSONResponse({"shares": await in_thread(shares.every, context.database, person.id)})

    @router.delete("/shares/{token}")
    async def revoke(request: Request, token: str) -> Response:
        """Take a link back."""
        person = await context.asking(request)
        await in_thread(shares.revoke, context.database, person.id, token)
        return Response(status_code=204)

    @router.get("/shared/{token}")
    async def shown(token: str) -> JSONResponse:
        """What whoever has the link reads."""
        headers = {"X-Robots-Tag": "noindex", "Cache-Control": "no-store"}
        return JSONResponse(await in_thread(shares.shown, context.database, token), headers=headers)

    return router
