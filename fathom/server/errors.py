"""What the API answers when it does not answer: one exception class, one JSON form, the documented codes."""

from collections.abc import Mapping
from typing import Any

# DeepSeek's documented codes (https://api-docs.deepseek.com/quick_start/error_codes) and the HTTP ones a server needs.
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_balance_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    431: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}


class ApiError(Exception):
    """A refusal that reaches the client: `status`, a message that says what to change, and the field it is about."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = _TYPES[status]
        self.code = code or self.type
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """DeepSeek's and OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> Mapping[str, str]:
        """`Retry-After` where waiting helps."""
        return {"Retry-After": str(self.retry_after)} if self.retry_after else {}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request cannot be understood or cannot be served by this model."""
    return ApiError(400, message, param=param, code=code)


def invalid(message: str, param: str | None = None) -> ApiError:
    """422: a parameter has a value that is not allowed."""
    return ApiError(422, message, param=param)


def internal_error(request_id: str) -> ApiError:
    """500: our fault; the log knows more, the client gets the id to ask about."""
    return ApiError(500, f"The server failed on this request. Its log has the details under request id {request_id}.")
