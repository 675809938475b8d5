"""The one gate in front of every route: request ids, Host and Origin, the key, sizes and times, headers, the log."""

import asyncio
import hmac
import logging
import time
import uuid
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fathom.server.accounts.accounts import CALLER, Accounts
from fathom.server.config import LOOPBACK_HOSTS, ServerConfig
from fathom.server.dialects import error_response
from fathom.server.errors import ApiError, internal_error
from fathom.server.metrics import Metrics

log = logging.getLogger("fathom.server")

_POLLED_PATHS = frozenset({"/health", "/metrics"})  # asked every few seconds: not worth a line of the log
_SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",  # pages bring their own
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI middleware, outermost: nothing reaches a route that has not passed here."""

    def __init__(self, app: ASGIApp, config: ServerConfig, metrics: Metrics, accounts: Accounts | None = None) -> None:
        self.app = app
        self.accounts = accounts
        self.config = config
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await _Passage(self, scope, receive, send).run()
        else:
            await send({"type": "websocket.close", "code": 1008})

    def check(self, scope: Scope) -> None:
        """Raise ApiError when the request may not pass."""
        headers = Headers(scope=scope)
        self._check_header_bytes(headers)
        self._check_host(headers)
        self._check_origin(headers)
        self._check_key(scope, headers)
        self._check_length(scope["path"], headers)

    def _check_header_bytes(self, headers: Headers) -> None:
        """CVE-2025-48956; h11 bounds what is still incomplete, not what came in one piece."""
        if sum(len(name) + len(value) for name, value in headers.raw) > self.config.max_header_bytes:
            raise ApiError(
                431, f"The headers are larger than {self.config.max_header_bytes} bytes: send fewer or shorter ones"
            )

    def _check_host(self, headers: Headers) -> None:
        """On the loopback a foreign Host header means DNS rebinding (CVE-2024-28224)."""
        if not self.config.on_loopback:
            return
        host = _host_name(headers.get("host", ""))
        if host not in LOOPBACK_HOSTS and host != self.config.host and host not in self.config.allowed_hosts:
            raise ApiError(
                403,
                f"The host name {host!r} is not served here. Call 127.0.0.1 or localhost, or allow the name with "
                "fathom serve --allow-host NAME",
            )

    def _check_origin(self, headers: Headers) -> None:
        """A page from elsewhere must not use a visitor's own server."""
        origin = headers.get("origin")
        if origin is None or origin in self.config.allowed_origins:
            return
        if urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
            raise ApiError(
                403,
                f"Pages from {origin!r} may not call this server. Allow them with fathom serve --allow-origin ORIGIN",
            )

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        if _is_among(self.config.public_paths, scope["path"]):
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        scope["state"]["key_fits"] = self._is_known(given)
        if not scope["state"]["key_fits"] and not _is_among(self.config.own_login_paths, scope["path"]):
            what = (
                "is missing"
                if not given
                else f"ending in {given[-4:]!r} is invalid"
                if len(given) > 12
                else "is invalid"
            )
            raise ApiError(
                401,
                f"Authentication Fails: the api key {what}. Send the server's key, or one made by fathom keys, "
                "as 'Authorization: Bearer KEY'",
                code="invalid_request_error",
            )

    def _is_known(self, given: str) -> bool:
        """Whether this is the server's own key or one of `fathom keys`, or no key is asked for."""
        own = self.config.api_key
        if own is not None and hmac.compare_digest(given.encode("utf-8", "surrogateescape"), own.encode()):
            return True
        if self.accounts is None:
            return own is None and not self.config.require_key
        key = self.accounts.find(given) if given else None
        CALLER.set(key)
        needed = own is not None or self.config.require_key or self.accounts.need_key()
        return key is not None or not needed

    def _check_length(self, path: str, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.max_bytes(path):
            raise self.too_large(path)

    def max_bytes(self, path: str) -> int:
        """The largest body that this path takes."""
        config = self.config
        return config.max_upload_bytes if _is_among(config.upload_paths, path) else config.max_body_bytes

    def max_seconds(self, path: str) -> float:
        """How long a body for this path may take to arrive."""
        config = self.config
        return config.upload_seconds if _is_among(config.upload_paths, path) else config.body_seconds

    def too_large(self, path: str) -> ApiError:
        """413 with the limit."""
        what = "a smaller file" if _is_among(self.config.upload_paths, path) else "fewer or shorter messages"
        return ApiError(413, f"The body is larger than {self.max_bytes(path)} bytes: send {what}")


class _Passage:
    """One request on its way through: counts its body, names it, logs it without what it says."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self.guard, self.scope, self._receive, self._send = guard, scope, receive, send
        self.request_id = f"req_{uuid.uuid4().hex}"
        self.received = 0
        self.body_complete = False
        self.status: int | None = None
        self.began = time.monotonic()
        self.body_deadline = self.began + guard.max_seconds(scope["path"])

    async def run(self) -> None:
        self.scope.setdefault("state", {})["request_id"] = self.request_id
        try:
            self.guard.check(self.scope)
            await self.guard.app(self.scope, self.receive, self.send)
        except ApiError as error:
            await self._refuse(error)
        except Exception:
            log.exception("request %s failed", self.request_id)
            await self._refuse(internal_error(self.request_id))
        finally:
            self.guard.metrics.responses[self.status or 499] += 1
            log.log(
                logging.DEBUG if self.scope["path"] in _POLLED_PATHS else logging.INFO,
                "%s %s %s %s %.0f ms",
                self.request_id,
                self.scope["method"],
                _printable(self.scope["path"]),
                self.status or "disconnected",
                1000 * (time.monotonic() - self.began),
            )

    async def _refuse(self, error: ApiError) -> None:
        if self.status is None:
            await error_response(error, self.scope["path"])(self.scope, self.receive, self.send)

    async def receive(self) -> Message:
        if self.body_complete:
            return await self._receive()
        try:
            async with asyncio.timeout(self.body_deadline - time.monotonic()):
                message = await self._receive()
        except TimeoutError as error:
            seconds = self.guard.max_seconds(self.scope["path"])
            raise ApiError(408, f"The body did not arrive within {seconds:.0f} s") from error
        self.received += len(message.get("body", b""))
        self.body_complete = not message.get("more_body", False)
        if self.received > self.guard.max_bytes(self.scope["path"]):
            raise self.guard.too_large(self.scope["path"])
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = headers["request-id"] = self.request_id  # OpenAI's and Anthropic's name for it
            for name, value in _SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


def _is_among(patterns: frozenset[str], path: str) -> bool:
    """Whether a path is one of these; a pattern that ends in * stands for all that begin so."""
    return any(path.startswith(one[:-1]) if one.endswith("*") else path == one for one in patterns)


def _host_name(host: str) -> str:
    """The name in a Host header, without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def _printable(path: str) -> str:
    return path[:200] if path.isprintable() else repr(path[:200])
