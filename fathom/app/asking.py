"""Asking: a question and the place of its answer are stored together, and a run is made that will fill it."""

import time
from typing import Annotated

from pydantic import Field

from fathom.app import files, notes, settings
from fathom.app.answering import Answering
from fathom.app.context import Context
from fathom.app.library import Chat, Library
from fathom.app.messages import Message, new_id, path_to
from fathom.app.people import Person
from fathom.app.settings import AnswerSettings, Settings, merged
from fathom.app.titles import first_words
from fathom.server.deepseek.fields import Strict
from fathom.server.errors import ApiError, bad_request, invalid

MAX_CHARACTERS = 1_000_000
MAX_FILES = 20

Id = Annotated[str, Field(pattern=r"^t?[0-9a-f]{32}$")]


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


class FirstQuestion(Question):
    """`POST answers`: the first question of a new chat."""

    temporary: bool = False


def check_quota(person: Person) -> None:
    """Raise ApiError 429 when this month's tokens are used up."""
    caller = person.caller
    if caller is not None and caller.max_tokens is not None and caller.spent_tokens >= caller.max_tokens:
        message = (
            f"You have used your {caller.max_tokens:,} tokens of this month: ask whoever runs this server for more"
        )
        raise ApiError(429, message, code="quota")


def begin(context: Context, person: Person, chat: str | None, form: Question) -> tuple[Answering, Message | None]:
    """Store what was asked and the answer's place, in a new chat where none is named; the run that will fill it.

    Raises ApiError. Blocking.
    """
    if sum(one is not None for one in (form.content, form.question, form.going_on)) != 1:
        raise bad_request("Send one of content (a new question), question (ask again) and continue (go on)")
    if chat is None:
        chat = _new_chat(context, person, form)
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


def _new_chat(context: Context, person: Person, form: Question) -> str:
    if form.content is None or form.parent is not None:
        raise bad_request("A new chat begins with content, a new question below nothing")
    temporary = isinstance(form, FirstQuestion) and form.temporary
    identity: str = context.library(person, "t" if temporary else "").create()["id"]
    return identity


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
