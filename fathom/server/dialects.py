"""How each family of clients wants its events and errors on the wire; which family is told by the path."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse

from fathom.server.errors import ApiError

Chunk = dict[str, Any]
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # json.dumps would make one for every chunk


def encode(value: object) -> bytes:
    """Compact UTF-8 JSON."""
    return _JSON.encode(value).encode()


def _data_line(event: Mapping[str, Any]) -> bytes:
    return b"data: " + encode(event) + b"\n\n"


def _named_event(event: Mapping[str, Any]) -> bytes:
    return b"event: " + str(event["type"]).encode() + b"\n" + _data_line(event)


def _response_event(event: Mapping[str, Any]) -> bytes:
    """An error in a Responses stream is an event of its own kind, not an object of its own form."""
    if "type" not in event:
        error = event["error"]
        event = {
            "type": "error",
            "sequence_number": 0,
            "code": error["code"],
            "message": error["message"],
            "param": error["param"],
        }
    return _named_event(event)


# https://docs.anthropic.com/en/api/errors: what Anthropic calls each status.
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}


def _anthropic_error(error: ApiError) -> dict[str, Any]:
    kind = _ANTHROPIC_TYPES.get(error.status, "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}}


@dataclass(frozen=True, slots=True)
class Dialect:
    """One form of events and errors.

    Attributes:
        event: an event of a stream as bytes.
        error: the error object, in a stream or as a body.
        keep_alive: what a stream sends while there is nothing to say.
        done: what ends a stream.
        statuses: codes that this dialect says differently.

    """

    event: Callable[[Mapping[str, Any]], bytes]
    error: Callable[[ApiError], dict[str, Any]]
    keep_alive: bytes = b": keep-alive\n\n"
    done: bytes = b""
    statuses: Mapping[int, int] = field(default_factory=dict)


OPENAI = Dialect(_data_line, ApiError.body, done=b"data: [DONE]\n\n")
RESPONSES = Dialect(_response_event, ApiError.body)
ANTHROPIC = Dialect(
    _named_event, _anthropic_error, keep_alive=_named_event({"type": "ping"}), statuses={422: 400, 415: 400}
)


def dialect_of(path: str) -> Dialect:
    """The dialect that is spoken at this path."""
    return ANTHROPIC if path.startswith("/anthropic/") else OPENAI


def error_response(error: ApiError, path: str) -> JSONResponse:
    """The whole response to a request at `path` that is refused."""
    dialect = dialect_of(path)
    return JSONResponse(dialect.error(error), dialect.statuses.get(error.status, error.status), dict(error.headers()))
