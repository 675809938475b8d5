"""Chats, messages, and the answers under way."""

import contextlib
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from fathom.app import files, notes, settings
from fathom.app.answering import Answering
from fathom.app.context import Context, changes, in_thread
from fathom.app.library import Chat, Library
from fathom.app.messages import Message, new_id, path_to
from fathom.app.people import Person
from fathom.app.settings import AnswerSettings, Settings, merged
from fathom.app.titles import first_words
from fathom.server.deepseek.fields import Strict
from fathom.server.dialects import Dialect, encode
from fathom.server.errors import ApiError, bad_request, invalid
from fathom.server.sse import EventStream

MAX_CHARACTERS = 1_000_000
MAX_FILES = 20
PAGE = 50

Title = Annotated[str, Field(max_length=200)]
Folder = Annotated[str, Field(min_length=1, max_length=100)]
Content = Annotated[str, Field(max_length=MAX_CHARACTERS)]
Id = Annotated[str, Field(pattern=r"^t?[0-9a-f]{32}$")]


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


class Question(Strict):
    """`POST chats/{id}/answers`: one of content, question and continue."""

    content: Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)] | None = None
    parent: Id | None = None
    files: Annotated[list[Id], Field(max_length=MAX_FILES)] = Field(default_factory=list)
    question: Id | None = None
    going_on: Id | None = Field(default=None, alias="continue")
    think: bool | None = None
    search: bool | None = None
    settings: AnswerSettings = AnswerSettings()


def _app_event(chunk: Mapping[str, Any]) -> bytes:
    return f"id: {chunk['id']}\nevent: {chunk['event']}\n".encode() + b"data: " + encode(chunk["data"]) + b"\n\n"


EVENTS = Dialect(_app_event, ApiError.body)


def chat_routes(context: Context) -> APIRouter:
    """Routes of chats and folders."""
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


def answer_routes(context: Context) -> APIRouter:
    """Routes of questions and of runs."""
    router = APIRouter()

    @router.post("/chats/{chat}/answers")
    async def ask(request: Request, chat: str) -> JSONResponse:
        """Ask, ask again, or go on."""
        person = await context.asking(request)
        form = await context.form(request, Question)
        check_quota(person)
        context.runs.check_room(person.id)
        answering, asked = await in_thread(_begin, context, person, chat, form)
        context.runs.start(answering)
        summary = await in_thread(context.library(person, chat).summary, chat)
        answer = {**answering.message.json(), "run": answering.id, "sequence": 0}
        body = {"chat": {**summary, "run": answering.id}, "user": asked and asked.json(), "answer": answer}
        return JSONResponse({**body, "run": {"id": answering.id}}, 201)

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


def check_quota(person: Person) -> None:
    """Raise ApiError 429 when this month's tokens are used up."""
    caller = person.caller
    if caller is not None and caller.max_tokens is not None and caller.spent_tokens >= caller.max_tokens:
        message = (
            f"You have used your {caller.max_tokens:,} tokens of this month: ask whoever runs this server for more"
        )
        raise ApiError(429, message, code="quota")


def _begin(context: Context, person: Person, chat: str, form: Question) -> tuple[Answering, Message | None]:
    """Store what was asked and the answer's place; the run that will fill it. Raises ApiError. Blocking."""
    if sum(one is not None for one in (form.content, form.question, form.going_on)) != 1:
        raise bad_request("Send one of content (a new question), question (ask again) and continue (go on)")
    library = context.library(person, chat)
    found = library.chat(chat)
    mine = settings.read(context.database, person.id)
    if form.going_on is not None:
        asked, answer = None, _going_on(context, library, found, form.going_on)
    else:
        asked, answer = _asked(context, library, found, form)
    path = path_to(found.messages, answer.parent)
    answer.settings = form.settings.model_dump(exclude_none=True) or answer.settings
    remembered = notes.every(context.database, person.id, "memory") if mine.memory and not library.temporary else []
    answering = Answering(
        context.service,
        library,
        person,
        chat,
        path,
        answer,
        merged(mine.model_dump(), {**answer.settings, "think": answer.think, "search": answer.search}),
        memories=[note["text"] for note in remembered],
        titled=not _wants_title(library, found, path, mine),
    )
    return answering, asked


def _asked(context: Context, library: Library, chat: Chat, form: Question) -> tuple[Message | None, Message]:
    """The new question, if it is one, and its answer to come."""
    new: list[Message] = []
    if form.content is not None:
        parent = form.parent if "parent" in form.model_fields_set else chat.head
        if parent is not None:
            chat.message(parent)
        _refuse_running(chat, [parent])
        question = Message(new_id(temporary=library.temporary), parent, "user", time.time(), form.content)
        database = context.database_of(question.id)
        question.files = files.attach(database, library.person, chat.summary["id"], form.files)
        new.append(question)
    else:
        question = chat.message(form.question or "")
        if question.role != "user":
            raise invalid("question must be the id of a question", "question")
        _refuse_running(chat, [one.id for one in chat.messages.values() if one.parent == question.id])
    answer = Message(new_id(temporary=library.temporary), question.id, "assistant", time.time(), state="running")
    answer.owner, answer.think, answer.search = context.runs.owner, form.think, form.search
    new.append(answer)
    library.add(chat.summary["id"], new)
    chat.messages.update({message.id: message for message in new})
    return (question if form.content is not None else None), answer


def _going_on(context: Context, library: Library, chat: Chat, identity: str) -> Message:
    answer = chat.message(identity)
    _refuse_running(chat, [identity])
    if answer.role != "assistant" or (answer.state == "complete" and answer.finish != "length"):
        raise bad_request(
            "Only an answer that was stopped, interrupted, failed or cut short can be continued", "continue"
        )
    answer.state, answer.error, answer.finish, answer.owner = "running", None, None, context.runs.owner
    library.restart(chat.summary["id"], answer)
    return answer


def _refuse_running(chat: Chat, messages: list[str | None]) -> None:
    if any(one is not None and chat.messages[one].state == "running" for one in messages):
        raise ApiError(409, "An answer is on its way here: wait for it, or stop it", code="busy")


def _wants_title(library: Library, chat: Chat, path: list[Message], mine: Settings) -> bool:
    """Give a chat without a title the first words of its question; whether the model shall find better ones."""
    if chat.titled:
        return False
    if not chat.summary["title"]:
        library.entitle(chat.summary["id"], first_words(path[0].content))
    answered = any(one.role == "assistant" and one.state == "complete" for one in chat.messages.values())
    return mine.auto_title and not answered
