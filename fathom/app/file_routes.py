"""Files that go with a question."""

from fastapi import APIRouter, Request
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, Response

from fathom.app import files
from fathom.app.context import Context, in_thread
from fathom.server.errors import bad_request


def file_routes(context: Context) -> APIRouter:
    """Upload, look at, forget."""
    router = APIRouter()

    @router.post("/files")
    async def upload(request: Request) -> JSONResponse:
        """Read a file; what it says waits for a question."""
        person = await context.asking(request)
        if context.service.search is None:
            raise bad_request("This server reads no files")
        name, data, fields = await uploaded(request)
        extractor = context.service.search.extractor
        name, kind, extract = await in_thread(files.read, extractor, name, data)
        database = context.database_of("t" if fields.get("temporary") in ("1", "true") else "")
        chip = await in_thread(files.keep, database, person.id, name, kind, len(data), extract)
        return JSONResponse({**chip, "tokens": await in_thread(_tokens, context, extract.text), "used": None}, 201)

    @router.get("/files/{identity}")
    async def look(request: Request, identity: str) -> JSONResponse:
        """What was read."""
        person = await context.asking(request)
        return JSONResponse(await in_thread(files.chip, context.database_of(identity), person.id, identity))

    @router.delete("/files/{identity}")
    async def forget(request: Request, identity: str) -> Response:
        """Take it back."""
        person = await context.asking(request)
        await in_thread(files.forget, context.database_of(identity), person.id, identity)
        return Response(status_code=204)

    return router


async def uploaded(request: Request) -> tuple[str, bytes, dict[str, str]]:
    """Name and bytes of the form's `file`, and its other fields. Raises ApiError 400."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise bad_request("Send the file as multipart/form-data, in a field called file")
    async with request.form(max_files=1, max_fields=4) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise bad_request("The form has no field called file with a file in it", "file")
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        return file.filename or "file", await file.read(), fields


def _tokens(context: Context, text: str) -> int | None:
    """How many tokens a text has, once there is a model."""
    engine = context.service.engine
    if engine is None:
        return None
    return files.count_long(text, lambda part: len(engine.tokenizer.encode(part)))
