"""Taking chats along, and bringing them."""

from typing import Literal
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from fathom.app import exports, imports
from fathom.app.context import Context, in_thread
from fathom.app.file_routes import uploaded

Format = Literal["markdown", "json"]


def export_routes(context: Context) -> APIRouter:
    """Export and import."""
    router = APIRouter()

    @router.get("/chats/{chat}/export")
    async def one(request: Request, chat: str, format: Format = "markdown") -> Response:
        """One chat."""
        person = await context.asking(request)
        found = await in_thread(context.library(person, chat).chat, chat)
        name = exports.safe_name(found.summary["title"])
        if format == "json":
            body = {"format": exports.FORMAT, "version": 1, "chats": [exports.chat_export(found)]}
            return JSONResponse(body, headers=_attached(f"{name}.json"))
        text = await in_thread(exports.markdown, found)
        return Response(text, media_type="text/markdown; charset=utf-8", headers=_attached(f"{name}.md"))

    @router.get("/export")
    async def everything(request: Request, format: Format = "json") -> Response:
        """All chats."""
        library = context.library(await context.asking(request))
        if format == "json":
            headers = _attached("fathom-chats.json")
            return StreamingResponse(exports.everything(library), media_type="application/json", headers=headers)
        archive = await in_thread(exports.markdown_archive, library)
        return Response(archive, media_type="application/zip", headers=_attached("fathom-chats.zip"))

    @router.post("/import")
    async def bring(request: Request) -> JSONResponse:
        """Chats of Fathom, DeepSeek or ChatGPT."""
        library = context.library(await context.asking(request))
        name, data, _ = await uploaded(request)
        result = await in_thread(imports.take, library, exports.safe_name(name), data)
        return JSONResponse(result.json())

    return router


def _attached(name: str) -> dict[str, str]:
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}", "Cache-Control": "no-store"}
