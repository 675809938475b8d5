"""The passage of an own document that a citation rests on, as it stands there."""

import dataclasses
import html
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse, JSONResponse

from fathom.app.context import Context, in_thread
from fathom.app.routes import SECURITY_HEADERS
from fathom.search.index import Excerpt
from fathom.server.errors import ApiError

Passage = Annotated[str, Query(max_length=64)]


def document_routes(context: Context) -> APIRouter:
    """`GET documents?passage=REF` for the page, `GET documents/page?passage=REF` for a window of its own."""
    router = APIRouter()

    async def found(request: Request, passage: str) -> Excerpt:
        person = await context.asking(request)
        search = context.service.search
        if search is None:
            raise ApiError(404, "This server does not search")
        return await in_thread(search.excerpt, passage, person.searcher)

    @router.get("/documents")
    async def excerpt(request: Request, passage: Passage) -> JSONResponse:
        return JSONResponse(dataclasses.asdict(await found(request, passage)))

    @router.get("/documents/page")
    async def page(request: Request, passage: Passage) -> HTMLResponse:
        return HTMLResponse(page_of(await found(request, passage)), headers=SECURITY_HEADERS)

    return router


def page_of(excerpt: Excerpt) -> str:
    """The passage marked in its surroundings. Everything from the document is text: nothing in it is markup."""
    title, section = html.escape(excerpt.title), html.escape(excerpt.section or "")
    before, text, after = (html.escape(part) for part in (excerpt.before, excerpt.text, excerpt.after))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    passage = f'<pre>{before}<mark id="passage">{text}</mark>{after}</pre>'
    return f'<!doctype html>{head}<main dir="auto"><h1>{title}</h1><p>{section}</p>{passage}</main>'
