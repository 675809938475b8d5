"""Who one is, what holds for one, logging in and out, one's own password and leave."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from fathom.app import settings
from fathom.app.context import COOKIE, Context, changes, in_thread
from fathom.app.people import Person
from fathom.app.session import session_json
from fathom.app.throttle import Throttle
from fathom.app.users import SESSION_SECONDS, UserError, session_hash
from fathom.server.deepseek.fields import Strict
from fathom.server.errors import ApiError, bad_request

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


def session_routes(context: Context) -> APIRouter:
    """Session and settings."""
    router = APIRouter()

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

    return router


def login_routes(context: Context) -> APIRouter:
    """Logging in and out."""
    router = APIRouter()
    throttle = context.throttle

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

    return router


def account_routes(context: Context) -> APIRouter:
    """A new password, and leaving."""
    router = APIRouter()
    throttle = context.throttle

    @router.post("/password")
    async def password(request: Request) -> Response:
        """A new password for oneself."""
        person = await context.asking(request)
        form = await context.form(request, NewPassword)
        await _confirm(context, throttle, request, person, form.old)
        keep = session_hash(request.cookies[COOKIE])
        await in_thread(spoken, context.users.set_password, person.id, form.new, keep=keep)
        return Response(status_code=204)

    @router.delete("/account")
    async def leave(request: Request) -> Response:
        """Forget oneself and everything that is one's own."""
        person = await context.asking(request)
        form = await context.form(request, Confirmed)
        await _confirm(context, throttle, request, person, form.password)
        await context.runs.stop(person=person.id)
        await in_thread(spoken, context.users.remove, person.id)
        return Response(status_code=204)

    return router


async def _confirm(context: Context, throttle: Throttle, request: Request, person: Person, given: str) -> None:
    """Raise ApiError unless this is the person's own password."""
    if person.name is None or not await in_thread(context.users.exist):
        raise bad_request("There are no accounts here: `fathom users add NAME` makes one")
    address = request.client.host if request.client is not None else ""
    door = (address, person.name)
    throttle.check(door)
    if await in_thread(context.users.check, person.name, given) is None:
        throttle.wrong(door)
        raise ApiError(403, "This is not your password", code="wrong_password")


def spoken(call: Any, *arguments: Any, **options: Any) -> Any:
    """Call it; what is wrong with a name or password becomes an answer."""
    try:
        return call(*arguments, **options)
    except UserError as error:
        raise bad_request(str(error)) from error
