"""Who one is, what holds for one, logging in and out, and what administrators do."""

import time
from collections import OrderedDict
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from fathom import __version__
from fathom.app import settings
from fathom.app.chat_routes import MAX_CHARACTERS, MAX_FILES
from fathom.app.context import COOKIE, Context, changes, in_thread
from fathom.app.months import month_began
from fathom.app.people import Person
from fathom.app.users import SESSION_SECONDS, User, UserError, session_hash
from fathom.search.files import MAX_FILE_BYTES, can_read_images, readable_suffixes
from fathom.server.config import LOOPBACK_HOSTS
from fathom.server.deepseek.fields import Strict
from fathom.server.errors import ApiError, bad_request
from fathom.server.status import health

PATH = "/app/api"  # of the cookie

Name = Annotated[str, Field(min_length=1, max_length=64)]
Password = Annotated[str, Field(max_length=4096)]
Quota = Annotated[int, Field(ge=1, le=2**53)]


class Login(Strict):
    """`POST login`."""

    name: Name
    password: Password


class Logout(Strict):
    """`POST logout`."""

    everywhere: bool = False


class NewPassword(Strict):
    """`POST password`."""

    old: Password
    new: Password


class Confirmed(Strict):
    """`DELETE account`."""

    password: Password


class NewUser(Strict):
    """`POST admin/users`."""

    name: Name
    password: Password
    admin: bool = False
    quota: Quota | None = None


class UserChange(Strict):
    """`PATCH admin/users/{id}`."""

    admin: bool = False
    quota: Quota | None = None
    password: Password = ""


class Throttle:
    """Slows down who guesses: after some wrong passwords for one name from one address, or from one address for many
    names, the next may be tried only after a while, which doubles.
    """

    def __init__(self, free: int = 5, first: float = 5.0, most: float = 900.0, kept: int = 10_000) -> None:
        self._free, self._first, self._most, self._kept = free, first, most, kept
        self._wrong: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()

    def check(self, *doors: tuple[str, str]) -> None:
        """Raise ApiError 429 where it is too early."""
        wait = max(self._until(door) for door in doors) - time.monotonic()
        if wait > 0:
            message = f"Too many wrong passwords: try again in {wait:.0f} s"
            raise ApiError(429, message, code="throttled", retry_after=int(wait) + 1)

    def wrong(self, *doors: tuple[str, str]) -> None:
        """A wrong password was given."""
        for door in doors:
            count, _ = self._wrong.pop(door, (0, 0.0))
            over = count + 1 - self._free * (1 if door[1] else 4)  # an address may serve a family
            wait = min(self._first * 2.0**over, self._most) if over >= 0 else 0.0
            self._wrong[door] = (count + 1, time.monotonic() + wait)
        while len(self._wrong) > self._kept:
            self._wrong.popitem(last=False)

    def right(self, *doors: tuple[str, str]) -> None:
        """The right one was given."""
        for door in doors:
            self._wrong.pop(door, None)

    def _until(self, door: tuple[str, str]) -> float:
        return self._wrong.get(door, (0, 0.0))[1]


def person_routes(context: Context) -> APIRouter:
    """Session, settings, login."""
    router = APIRouter()
    throttle = Throttle()

    @router.get("/session")
    async def session(request: Request) -> JSONResponse:
        """Everything that the page must know first."""
        try:
            person, needs_key = await in_thread(context.person, request), False
        except ApiError:
            person, needs_key = None, True
        body = await in_thread(session_json, context, person, needs_key=needs_key)
        return JSONResponse(body, headers={"Cache-Control": "no-store"})

    @router.patch("/settings")
    async def change_settings(request: Request) -> JSONResponse:
        """Set what was sent."""
        person = await context.asking(request)
        form = await context.form(request, settings.Settings)
        now = (await in_thread(settings.read, context.database, person.id)).model_copy(update=changes(form))
        await in_thread(settings.write, context.database, person.id, now)
        return JSONResponse(now.model_dump())

    @router.post("/login")
    async def login(request: Request) -> Response:
        """A name and a password for a session."""
        form = await context.form(request, Login)
        address = request.client.host if request.client is not None else ""
        doors = ((address, form.name.strip().casefold()), (address, ""))
        throttle.check(*doors)
        user = await in_thread(context.users.check, form.name, form.password)
        if user is None:
            throttle.wrong(*doors)
            raise ApiError(401, "This name and password do not belong together", code="wrong_password")
        throttle.right(doors[0])
        token = await in_thread(context.users.open_session, user.id)
        response = Response(status_code=204)
        secure = request.url.scheme == "https"
        response.set_cookie(
            COOKIE, token, max_age=int(SESSION_SECONDS), path=PATH, httponly=True, samesite="strict", secure=secure
        )
        return response

    @router.post("/logout")
    async def logout(request: Request) -> Response:
        """End this session, or all."""
        person = await context.asking(request)
        form = await context.form(request, Logout)
        if form.everywhere:
            await in_thread(context.users.close_sessions, person.id)
        else:
            await in_thread(context.users.close_session, request.cookies.get(COOKIE, ""))
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, path=PATH, httponly=True, samesite="strict")
        return response

    @router.post("/password")
    async def password(request: Request) -> Response:
        """A new password for oneself."""
        person = await context.asking(request)
        form = await context.form(request, NewPassword)
        await confirm(request, person, form.old)
        keep = session_hash(request.cookies[COOKIE])
        await in_thread(_spoken, context.users.set_password, person.id, form.new, keep=keep)
        return Response(status_code=204)

    @router.delete("/account")
    async def leave(request: Request) -> Response:
        """Forget oneself and everything that is one's own."""
        person = await context.asking(request)
        form = await context.form(request, Confirmed)
        await confirm(request, person, form.password)
        await context.runs.stop(person=person.id)
        await in_thread(_spoken, context.users.remove, person.id)
        return Response(status_code=204)

    async def confirm(request: Request, person: Person, given: str) -> None:
        if person.name is None or not await in_thread(context.users.exist):
            raise bad_request("There are no accounts here: `fathom users add NAME` makes one")
        address = request.client.host if request.client is not None else ""
        door = (address, person.name)
        throttle.check(door)
        if await in_thread(context.users.check, person.name, given) is None:
            throttle.wrong(door)
            raise ApiError(403, "This is not your password", code="wrong_password")

    return router


def admin_routes(context: Context) -> APIRouter:
    """Who may use this server."""
    router = APIRouter()

    @router.get("/admin/users")
    async def users(request: Request) -> JSONResponse:
        """All users and what each used this month."""
        await context.administrating(request)
        found = await in_thread(context.users.every)
        return JSONResponse({"users": [await in_thread(_user_json, context, user) for user in found]})

    @router.post("/admin/users")
    async def add(request: Request) -> JSONResponse:
        """A new user."""
        person = await context.administrating(request)
        form = await context.form(request, NewUser)
        if not await in_thread(context.users.exist):
            raise bad_request("The first user is made on the server: fathom users add NAME")
        del person
        user = await in_thread(_spoken, context.users.add, form.name, form.password, admin=form.admin, quota=form.quota)
        return JSONResponse(await in_thread(_user_json, context, user), 201)

    @router.patch("/admin/users/{identity}")
    async def change(request: Request, identity: str) -> JSONResponse:
        """Rights, quota, a new password."""
        await context.administrating(request)
        form = await context.form(request, UserChange)
        await in_thread(_known, context, identity)
        values = changes(form)
        if "password" in values:
            await in_thread(_spoken, context.users.set_password, identity, values.pop("password"))
        if values:
            await in_thread(_spoken, context.users.change, identity, values)
        return JSONResponse(await in_thread(_user_json, context, _known(context, identity)))

    @router.delete("/admin/users/{identity}")
    async def remove(request: Request, identity: str) -> Response:
        """Forget a user and everything that is theirs."""
        await context.administrating(request)
        await in_thread(_known, context, identity)
        await context.runs.stop(person=identity)
        await in_thread(_spoken, context.users.remove, identity)
        return Response(status_code=204)

    return router


def session_json(context: Context, person: Person | None, *, needs_key: bool = False) -> dict[str, Any]:
    """The body of `GET session`. Blocking."""
    service = context.service
    _, state = health(service)
    thinks = state.get("thinks")
    search, accounts = service.search, service.accounts
    model = {"name": state["model"], "state": state["status"], "progress": state.get("progress")}
    body: dict[str, Any] = {
        "user": None,
        "login": person is None and not needs_key,
        "key": needs_key,
        "csrf": None,
        "version": __version__,
        "model": {**model, "error": state.get("error"), "context": state.get("context")},
        "capabilities": {
            "think": thinks,
            "search": search is not None,
            "files": search is not None,
            "ocr": can_read_images(),
            "users": not needs_key and context.users.exist(),
            "temporary": True,
        },
        "limits": {
            "files": MAX_FILES,
            "file_bytes": MAX_FILE_BYTES,
            "message_characters": MAX_CHARACTERS,
            "import_bytes": context.config.max_upload_bytes,
        },
        "files": {"extensions": sorted(readable_suffixes())},
        "settings": None,
        "data": None,
        "prices": None,
    }
    if person is None:
        return body
    places = [] if search is None else search.places()
    mine = {
        "user": {"id": person.id, "name": person.name, "admin": person.admin, "quota": _quota(person)},
        "csrf": context.csrf(person),
        "settings": settings.read(context.database, person.id).model_dump(),
        "data": {"model": _model_place(context), "search": places},
        "prices": {"plan": accounts.ledger.plan, "compare": settings.COMPARED_PLAN} if accounts is not None else None,
    }
    return {**body, **mine}


def _model_place(context: Context) -> dict[str, str | None]:
    """Where questions are answered: on this machine, or by other servers."""
    upstreams = getattr(context.service.engine, "upstreams", ())
    hosts = [urlsplit(upstream.url).hostname or "" for upstream in upstreams]
    away = [host for host in hosts if host not in LOOPBACK_HOSTS]
    return {"where": "web" if away else "machine", "host": ", ".join(dict.fromkeys(away)) or None}


def _quota(person: Person) -> dict[str, int] | None:
    if person.caller is None or person.caller.max_tokens is None:
        return None
    return {"tokens": person.caller.max_tokens, "used": person.caller.spent_tokens}


def _known(context: Context, identity: str) -> User:
    user = context.users.get(identity)
    if user is None:
        raise ApiError(404, "There is no such user (any more)", code="not_found")
    return user


def _user_json(context: Context, user: User) -> dict[str, Any]:
    accounts = context.service.accounts
    used = accounts.tokens_used(f"user:{user.name}", month_began()) if accounts is not None else 0
    fields = {"id": user.id, "name": user.name, "admin": user.admin, "created": user.created, "quota": user.quota}
    return {**fields, "used": used}


def _spoken(call: Any, *arguments: Any, **options: Any) -> Any:
    """Call it; what is wrong with a name or password becomes an answer."""
    try:
        return call(*arguments, **options)
    except UserError as error:
        raise bad_request(str(error)) from error
