"""What the app's routes share: databases, runs, users; who asks; bodies and answers in one form."""

import asyncio
import hmac
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from pydantic import ValidationError
from starlette.requests import Request

from fathom.app import people
from fathom.app.database import Database
from fathom.app.library import Library
from fathom.app.messages import is_temporary
from fathom.app.months import month_began
from fathom.app.people import Person, csrf_token
from fathom.app.runs import Owner, Runs, mark_interrupted
from fathom.app.throttle import Throttle
from fathom.app.users import User, Users, secret, session_hash
from fathom.checkpoints.sources import home
from fathom.server.accounts.accounts import CALLER
from fathom.server.accounts.keys import Key
from fathom.server.bodies import read_json
from fathom.server.config import ServerConfig
from fathom.server.deepseek.fields import Strict, explained
from fathom.server.errors import ApiError
from fathom.server.service import Service

COOKIE = "fathom_session"
CSRF_HEADER = "x-fathom-csrf"

Form = TypeVar("Form", bound=Strict)
Params = ParamSpec("Params")
Result = TypeVar("Result")


class Context:
    """One app on one server."""

    def __init__(self, service: Service, config: ServerConfig, url: str) -> None:
        self.service, self.config = service, config
        self.database = Database(url)
        self.fleeting = Database(None)  # temporary chats
        self.users = Users(self.database)
        self._secret = secret(self.database)
        self.owner = Owner(home() / "app-servers")
        mark_interrupted(self.database, self.owner)
        self.runs = Runs(self.owner.name)
        self.throttle = Throttle()

    async def close(self) -> None:
        """End the answers, store them, let go."""
        await self.runs.close()
        self.database.close()
        self.fleeting.close()
        self.owner.close()

    def database_of(self, identity: str) -> Database:
        """Where what has this id lives."""
        return self.fleeting if is_temporary(identity) else self.database

    def library(self, person: Person, identity: str = "") -> Library:
        """The person's chats, of the kind that this id is of."""
        return Library(self.database_of(identity), person.id)

    def person(self, request: Request) -> Person | None:
        """Who asks, None who must log in first. Raises ApiError 401 where a key is asked for. Blocking."""
        if self.users.exist():
            user = self.users.of_session(request.cookies.get(COOKIE, ""))
            return None if user is None else self._user(user, request.cookies[COOKIE])
        if not request.scope["state"].get("key_fits", True):
            raise ApiError(
                401, "This server asks for a key: send it as 'Authorization: Bearer KEY'", code="key_required"
            )
        caller = CALLER.get()
        if caller is None:
            return Person(people.OWNER, None, admin=True, caller=None, session=people.OWNER)
        return Person(f"key-{caller.id}", caller.name, admin=False, caller=caller, session=caller.id)

    def _user(self, user: User, token: str) -> Person:
        accounts = self.service.accounts
        name = f"user:{user.name}"
        used = accounts.tokens_used(name, month_began()) if accounts is not None else 0
        caller = Key(user.id, name, user.created, None, None, user.quota, None, used, 0)
        return Person(user.id, user.name, user.admin, caller, session_hash(token))

    def csrf(self, person: Person) -> str:
        """The token of this person's pages."""
        return csrf_token(self._secret, person)

    def check_csrf(self, request: Request, person: Person) -> None:
        """Raise ApiError 403 for a change that does not come from a page of ours."""
        given = request.headers.get(CSRF_HEADER, "")
        if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self.csrf(person).encode()):
            raise ApiError(403, "The page is from before: load it anew", code="csrf")

    async def asking(self, request: Request) -> Person:
        """Who asks; for anything but reading with the token of their page. Raises ApiError 401 or 403."""
        person = await asyncio.to_thread(self.person, request)
        if person is None:
            raise ApiError(401, "Log in first", code="login_required")
        if request.method not in ("GET", "HEAD"):
            self.check_csrf(request, person)
        return person

    async def administrating(self, request: Request) -> Person:
        """`asking`, for administrators. Raises ApiError 401, 403."""
        person = await self.asking(request)
        if not person.admin:
            raise ApiError(403, "Only an administrator can do that", code="not_admin")
        return person

    async def form(self, request: Request, form: type[Form]) -> Form:
        """The body as `form`; none at all is an empty one. Raises ApiError."""
        if not await request.body():
            return self._validated(form, {})
        return self._validated(form, await read_json(request, self.config.max_json_depth))

    def _validated(self, form: type[Form], body: dict[str, Any]) -> Form:
        try:
            return form.model_validate(body)
        except ValidationError as error:
            raise explained(error, body) from error


async def in_thread(call: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs) -> Result:
    """Call what blocks."""
    return await asyncio.to_thread(call, *args, **kwargs)


def changes(form: Strict) -> dict[str, Any]:
    """The fields that were sent, null included."""
    return {name: getattr(form, name) for name in form.model_fields_set}
