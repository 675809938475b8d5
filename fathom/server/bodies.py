"""From the bytes of a request to JSON values, strictly: UTF-8, bounded depth, no NUL, no half surrogate, no NaN."""

import asyncio
import json
from typing import Any, NoReturn

from starlette.requests import Request

from fathom.server.errors import ApiError, bad_request

_PARSE_ON_LOOP_BYTES = 64 * 2**10


async def read_json(request: Request, max_depth: int) -> dict[str, Any]:
    """The request's body as a JSON object; large bodies are parsed off the event loop.

    Raises ApiError 400 (malformed), 413 (too large) or 415 (not declared as JSON).
    """
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(
            415, f"Send the body as JSON with the header 'Content-Type: application/json', not {content_type!r}"
        )
    body = await request.body()
    if len(body) <= _PARSE_ON_LOOP_BYTES:
        return parse_object(body, max_depth)
    return await asyncio.to_thread(parse_object, body, max_depth)


def parse_object(body: bytes, max_depth: int) -> dict[str, Any]:
    """`body` as a JSON object, or ApiError 400 with the place of the fault."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        raise bad_request(f"The body is not valid UTF-8 (byte {error.start}): encode the JSON as UTF-8") from error
    except RecursionError as error:
        raise bad_request(f"The JSON is nested deeper than {max_depth} levels") from error
    except ValueError as error:
        raise bad_request(f"The body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise bad_request('The body must be a JSON object, such as {"model": ..., "messages": [...]}')
    _check_values(value, max_depth)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {double!r} appears twice in one object")
    return values


def _check_values(root: object, max_depth: int) -> None:
    level: list[object] = [root]
    for _ in range(max_depth):
        below: list[object] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, dict):
                below += value.keys()
                below += value.values()
            elif isinstance(value, list):
                below += value
        if not below:
            return
        level = below
    raise bad_request(f"The JSON is nested deeper than {max_depth} levels")


def _check_text(text: str) -> None:
    if "\0" in text:
        raise bad_request("A string in the body contains the character NUL (U+0000): remove it")
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise bad_request(
            f"A string in the body contains half of a surrogate pair (\\u{ord(text[error.start]):04x}): "
            "send whole characters"
        ) from error
