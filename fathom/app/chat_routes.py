"""Chats, their messages, and their folders."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from fathom.app.asking import MAX_CHARACTERS, Id
from fathom.app.context import Context, changes, in_thread
from fathom.app.library import Chat
from fathom.server.deepseek.fields import Strict

PAGE = 50

Title = Annotated[str, Field(max_length=200)]
Folder = Annotated[str, Field(min_length=1, max_length=100)]
Content = Annotated[str, Field(max_length=MAX_CHARACTERS)]


class NewChat(Strict):
    """`POST chats`."""

    title: Title = ""
    folder: Folder | None = None
    temporary: bool = False


class ChatChange(Strict):
    """`PATCH chats/{id}`."""

    title: Title = ""
    pinned: bool = False
    folder: Folder | None = None
    head: Id | None = None


class MessageChange(Strict):
    """`PATCH chats/{id}/messages/{id}`."""

    rating: Literal[1, -1] | None = None
    content: Content = ""


class FolderName(Strict):
    """`POST folders/rename`: to null is out of it."""

    old: Folder = Field(alias="from")
    to: Folder | None = None


def chat_routes(context: Context) -> APIRouter:
    """Routes of the list of chats."""
    router = APIRouter()

    @router.get("/chats")
    async def chats(
        request: Request,
        query: str = "",
        folder: str | None = None,
        before: str | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = PAGE,
    ) -> JSONResponse:
        """The list, or what a search in it finds."""
        library = context.library(await context.asking(request))
        if query.strip():
            found, following = await in_thread(library.search, query[:500]), None
        else:
            found, following = await in_thread(library.page, folder=folder, before=before, limit=limit)
        running = context.runs.of_chats()
        found = [{**summary, "run": running.get(summary["id"])} for summary in found]
        return JSONResponse({"chats": found, "next": following})

    @router.post("/chats")
    async def create(request: Request) -> JSONResponse:
        """A new chat."""
        person = await context.asking(request)
        form = await context.form(request, NewChat)
        library = context.library(person, "t" if form.temporary else "")
        summary = await in_thread(library.create, title=form.title, folder=form.folder)
        return JSONResponse({**summary, "head": None, "messages": []}, 201)

    @router.delete("/chats")
    async def delete_all(request: Request) -> Response:
        """Forget everything."""
        person = await context.asking(request)
        await context.runs.stop(person=person.id)
        for identity in ("", "t"):
            await in_thread(context.library(person, identity).delete_all)
        return Response(status_code=204)

    return router


def one_chat_routes(context: Context) -> APIRouter:
    """Routes of one chat."""
    router = APIRouter()

    @router.get("/chats/{chat}")
    async def read(request: Request, chat: str) -> JSONResponse:
        """A chat with its messages."""
        person = await context.asking(request)
        found = await in_thread(context.library(person, chat).chat, chat)
        return JSONResponse(chat_json(context, found))

    @router.patch("/chats/{chat}")
    async def change(request: Request, chat: str) -> JSONResponse:
        """Rename, pin, move, or show another branch."""
        person = await context.asking(request)
        form = await context.form(request, ChatChange)
        library = context.library(person, chat)
        await in_thread(library.change, chat, changes(form))
        return JSONResponse(chat_json(context, await in_thread(library.chat, chat)))

    @router.delete("/chats/{chat}")
    async def delete(request: Request, chat: str) -> Response:
        """Forget a chat; what still writes it is stopped first."""
        person = await context.asking(request)
        library = context.library(person, chat)
        await in_thread(library.summary, chat)
        await context.runs.stop(chat=chat)
        await in_thread(library.delete, chat)
        return Response(status_code=204)

    return router


def message_routes(context: Context) -> APIRouter:
    """Routes of the messages of a chat."""
    router = APIRouter()

    @router.patch("/chats/{chat}/messages/{message}")
    async def change_message(request: Request, chat: str, message: str) -> JSONResponse:
        """Rate an answer or correct it."""
        person = await context.asking(request)
        form = await context.form(request, MessageChange)
        library = context.library(person, chat)
        changed = await in_thread(library.change_message, chat, message, changes(form))
        return JSONResponse(changed.json())

    @router.delete("/chats/{chat}/messages/{message}")
    async def delete_message(request: Request, chat: str, message: str) -> JSONResponse:
        """Forget a message and all below it."""
        person = await context.asking(request)
        library = context.library(person, chat)
        found = await in_thread(library.chat, chat)
        found.message(message)
        await context.runs.stop(messages=found.below(message))
        await in_thread(library.delete_message, chat, message)
        return JSONResponse(chat_json(context, await in_thread(library.chat, chat)))

    return router


def folder_routes(context: Context) -> APIRouter:
    """Routes of folders."""
    router = APIRouter()

    @router.get("/folders")
    async def folders(request: Request) -> JSONResponse:
        """The folders in use."""
        library = context.library(await context.asking(request))
        return JSONResponse({"folders": await in_thread(library.folders)})

    @router.post("/folders/rename")
    async def rename(request: Request) -> Response:
        """Move all chats of a folder."""
        library = context.library(await context.asking(request))
        form = await context.form(request, FolderName)
        await in_thread(library.rename_folder, form.old, form.to)
        return Response(status_code=204)

    return router


def chat_json(context: Context, chat: Chat) -> dict[str, Any]:
    """A chat as the page gets it. An answer under way is told as far as it is, which may be further than it is stored,
    with its run and the number of the last event that is in it: `events?after=` that number is what follows.
    """
    running = context.runs.of_messages()
    messages = []
    for message in chat.messages.values():
        live = running.get(message.id)
        if live is None:
            messages.append({**message.json(), "sequence": None})
        else:
            messages.append({**live.message.json(), "run": live.id, "sequence": live.log.last})
    run = next((message["run"] for message in messages if message["run"]), None)
    return {**chat.summary, "run": run, "head": chat.head, "messages": messages}
