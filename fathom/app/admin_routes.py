"""What administrators do: who may use this server, and how much."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from fathom.app.account_routes import Name, Password, Quota, spoken
from fathom.app.context import Context, changes, in_thread
from fathom.app.months import month_began
from fathom.app.users import User
from fathom.server.deepseek.fields import Strict
from fathom.server.errors import ApiError, bad_request


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
        user = await in_thread(spoken, context.users.add, form.name, form.password, admin=form.admin, quota=form.quota)
        return JSONResponse(await in_thread(_user_json, context, user), 201)

    @router.patch("/admin/users/{identity}")
    async def change(request: Request, identity: str) -> JSONResponse:
        """Rights, quota, a new password."""
        await context.administrating(request)
        form = await context.form(request, UserChange)
        await in_thread(_known, context, identity)
        values = changes(form)
        if "password" in values:
            await in_thread(spoken, context.users.set_password, identity, values.pop("password"))
        if values:
            await in_thread(spoken, context.users.change, identity, values)
        return JSONResponse(await in_thread(_user_json, context, _known(context, identity)))

    @router.delete("/admin/users/{identity}")
    async def remove(request: Request, identity: str) -> Response:
        """Forget a user and everything that is theirs."""
        await context.administrating(request)
        await in_thread(_known, context, identity)
        await context.runs.stop(person=identity)
        await in_thread(spoken, context.users.remove, identity)
        return Response(status_code=204)

    return router


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
