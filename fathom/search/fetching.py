"""The only way from Fathom's search to the web: judged, pinned and bounded.

A name is resolved once, every address it stands for is judged, and a judged address is dialled; TLS still checks the
name. Environment proxies play no part, because they would dial for us. There is one fetcher and no second path.
"""

import asyncio
import json
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import httpcore

from fathom.search.addresses import Target, judge, parse_url
from fathom.search.decoding import Inflater, decode_text
from fathom.search.errors import BlockedAddressError, FetchError

MAX_BYTES = 4 * 1024 * 1024
MAX_SECONDS = 10.0
MAX_REDIRECTS = 5
PAGE_TYPES = frozenset({"text/html", "application/xhtml+xml", "text/plain", "text/markdown"})
JSON_TYPES = frozenset({"application/json"})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {
    "User-Agent": "Mozilla/5.0 (compatible; Fathom; a person's own search)",
    "Accept": "text/html, application/xhtml+xml, text/plain;q=0.9, text/markdown;q=0.9",
    "Accept-Encoding": "gzip, deflate",
}


@dataclass(frozen=True, slots=True)
class Page:
    """A page as it came: `url` where it was found in the end, `truncated` when it was longer than MAX_BYTES."""

    url: str
    status: int
    content_type: str
    text: str
    truncated: bool


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    headers: Mapping[str, str]
    data: bytes
    truncated: bool


async def fetch(
    url: str, *, allow_private: bool = False, max_bytes: int = MAX_BYTES, max_seconds: float = MAX_SECONDS
) -> Page:
    """Get a page of text, following at most MAX_REDIRECTS redirects, each judged anew.

    `allow_private` opens the named origin wherever it is (the user's own machine or network), but nothing that it
    redirects to elsewhere. Raises BlockedAddressError for what is not opened, FetchError for what does not
    answer well in time.
    """
    try:
        async with asyncio.timeout(max_seconds):
            return await _fetch(url, allow_private, max_bytes)
    except TimeoutError as error:
        raise FetchError(f"{url} took longer than {max_seconds:g} s") from error


async def _fetch(url: str, allow_private: bool, max_bytes: int) -> Page:
    named = target = parse_url(url, any_port=allow_private)
    for _ in range(MAX_REDIRECTS + 1):
        private = allow_private and target.origin == named.origin
        response = await _exchange(target, "GET", _HEADERS, None, private, max_bytes, PAGE_TYPES)
        if response.status not in _REDIRECTS or "location" not in response.headers:
            return _page(target, response)
        following = urljoin(target.url, _checked_reference(response.headers["location"]))
        target = parse_url(following, any_port=private)
    raise FetchError(f"{url} redirects more than {MAX_REDIRECTS} times")


def _checked_reference(location: str) -> str:
    # Checked before joining: urljoin drops tabs and line breaks that another parser would keep.
    if any(character <= " " or character == "\\" for character in location):
        raise BlockedAddressError(
            f"a redirect to {location!r}, which holds a backslash, a space or a control character"
        )
    return location.encode("latin-1").decode("utf-8", errors="replace")


def _page(target: Target, response: _Response) -> Page:
    if response.status != 200:
        raise FetchError(f"{target.url} answers {response.status}")
    kind, charset = _content_type(response.headers)
    return Page(target.url, response.status, kind, decode_text(response.data, charset), response.truncated)


async def fetch_json(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: object = None,
    allow_private: bool = False,
    max_seconds: float = MAX_SECONDS,
) -> Any:
    """Ask an API: GET, or POST of `body` as JSON; redirects are refused, so that a key goes nowhere else.

    Raises BlockedAddressError and FetchError as `fetch` does.
    """
    target = parse_url(url, any_port=allow_private)
    data = None if body is None else json.dumps(body).encode()
    sent = {**_HEADERS, "Accept": "application/json", **(headers or {})}
    if data is not None:
        sent["Content-Type"] = "application/json"
    try:
        async with asyncio.timeout(max_seconds):
            method = "GET" if data is None else "POST"
            response = await _exchange(target, method, sent, data, allow_private, MAX_BYTES, JSON_TYPES)
    except TimeoutError as error:
        raise FetchError(f"{target.origin} took longer than {max_seconds:g} s") from error
    if response.status != 200 or response.truncated:
        raise FetchError(
            f"{target.origin} answers {response.status}" + (" with too much" if response.truncated else "")
        )
    try:
        return json.loads(response.data)
    except (ValueError, RecursionError) as error:
        raise FetchError(f"{target.origin} answers with broken JSON") from error


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, in the system's order. Raises FetchError where there are none."""
    try:
        answers = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise FetchError(f"{host} has no address: {error}") from error
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


class _PinnedBackend(httpcore.AsyncNetworkBackend):
    """Dials the addresses it was given, whatever name it is asked for."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - the name was judged; its address is dialled
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: httpcore.ConnectError | httpcore.ConnectTimeout = httpcore.ConnectError("no address")
        for address in self._addresses:
            try:
                return await dial(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


async def dial(
    address: str, port: int, seconds: float | None, local_address: str | None, options: Iterable[Any] | None
) -> httpcore.AsyncNetworkStream:
    """Open a connection to a judged address."""
    return await httpcore.AnyIOBackend().connect_tcp(address, port, seconds, local_address, options)


async def _exchange(
    target: Target,
    method: str,
    headers: Mapping[str, str],
    body: bytes | None,
    private: bool,
    max_bytes: int,
    types: frozenset[str],
) -> _Response:
    """One request on one connection of its own, to an address judged for it. The body is read for status 200 only."""
    answers = await resolve(target.host, target.port)
    addresses = answers if private else judge(target.host, answers)
    url = httpcore.URL(
        scheme=target.scheme.encode(), host=target.host.encode(), port=target.port, target=target.path.encode()
    )
    sent = {"Host": target.origin.partition("://")[2], "Connection": "close", **headers}
    if body is not None:
        sent["Content-Length"] = str(len(body))
    try:
        async with (
            httpcore.AsyncConnectionPool(
                ssl.create_default_context(), network_backend=_PinnedBackend(addresses)
            ) as pool,
            pool.stream(method, url, headers=list(sent.items()), content=body) as response,
        ):
            return await _read(response, target, max_bytes, types)
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
        raise FetchError(f"{target.origin} cannot be read: {str(error) or type(error).__name__}") from error


async def _read(response: httpcore.Response, target: Target, max_bytes: int, types: frozenset[str]) -> _Response:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
    if response.status != 200:
        return _Response(response.status, headers, b"", truncated=False)
    kind, _ = _content_type(headers)
    if kind not in types:
        raise FetchError(f"{target.url} is {kind or 'of no stated type'}, not {', '.join(sorted(types))}")
    inflater = Inflater(headers.get("content-encoding", ""), max_bytes)
    async for chunk in response.aiter_stream():
        if not inflater.push(chunk):
            break
    return _Response(response.status, headers, inflater.data, inflater.truncated)


def _content_type(headers: Mapping[str, str]) -> tuple[str, str | None]:
    kind, *parameters = headers.get("content-type", "").split(";")
    charset = next((one.partition("=")[2] for one in parameters if one.strip().lower().startswith("charset")), None)
    return kind.strip().lower(), charset
