"""Mount the app's own routes under /app/api. What they say is in docs/app.md, "The app's routes"."""

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse

from fathom.app.account_routes import PATH, account_routes, login_routes, session_routes
from fathom.app.admin_routes import admin_routes
from fathom.app.answer_routes import answer_routes
from fathom.app.chat_routes import chat_routes, folder_routes, message_routes, one_chat_routes
from fathom.app.context import Context
from fathom.app.database import app_url
from fathom.app.document_routes import document_routes
from fathom.app.export_routes import export_routes
from fathom.app.file_routes import file_routes
from fathom.app.things_routes import note_routes, share_routes
from fathom.server.dialects import error_response
from fathom.server.errors import invalid

# The guard's part (`ServerConfig`): these routes ask themselves who it is, and these take large bodies.
OWN_LOGIN_PATHS = frozenset({f"{PATH}/*"})
UPLOAD_PATHS = frozenset({f"{PATH}/files", f"{PATH}/import"})
_ABOUT_PEOPLE = (session_routes, login_routes, account_routes, admin_routes, note_routes)
_ABOUT_CHATS = (chat_routes, one_chat_routes, message_routes, folder_routes, answer_routes)
_ABOUT_THINGS = (file_routes, share_routes, export_routes, document_routes)


def mount_api(app: FastAPI, url: str | None = None) -> Context:
    """Add the routes to an application of `create_app`; answers under way are stored when it ends."""
    context = Context(app.state.service, app.state.config, url or app_url())
    for routes in (*_ABOUT_PEOPLE, *_ABOUT_CHATS, *_ABOUT_THINGS):
        app.include_router(routes(context), prefix=PATH, include_in_schema=False)
    app.add_exception_handler(RequestValidationError, _refused_query)
    served = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(inner: FastAPI) -> AsyncIterator[None]:
        async with served(inner):
            try:
                yield
            finally:
                await context.close()  # before the engine: its last events are still to be stored

    app.router.lifespan_context = lifespan
    return context


async def _refused_query(request: Request, error: Exception) -> JSONResponse:
    """A parameter in the address that is out of range."""
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]
    name = str(fault["loc"][-1])
    return error_response(invalid(f"Invalid {name}: {fault['msg']}", name), request.url.path)
