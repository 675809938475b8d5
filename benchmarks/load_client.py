"""A client that costs little: HTTP/1.1 by hand over asyncio, bytes kept as they come and read at the end."""

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

_TEXT = re.compile(rb'"content":"[^"]')
_END = b"0\r\n\r\n"


@dataclass(slots=True)
class Answer:
    """One answer, as it came.

    `first` and `total` are seconds from the request's first byte; `gaps` between the packets after the first.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    first: float = 0.0
    total: float = 0.0
    gaps: list[float] = field(default_factory=list)

    def chunks(self) -> list[dict[str, Any]]:
        """The events of a stream. Raises AssertionError where it did not end as it should."""
        lines = [line[6:] for line in self.body.split(b"\n") if line.startswith(b"data: ")]
        assert lines, "a stream without events"
        assert lines[-1].strip() == b"[DONE]", "a stream ended without [DONE]"
        chunks = [json.loads(line) for line in lines[:-1]]
        assert not any("error" in chunk for chunk in chunks), chunks
        return chunks

    def text(self) -> str:
        return "".join(
            choice["delta"].get("content") or "" for chunk in self.chunks() for choice in chunk.get("choices", ())
        )

    def tokens(self) -> int:
        return next(chunk["usage"]["completion_tokens"] for chunk in reversed(self.chunks()) if chunk.get("usage"))


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self._done: asyncio.Future[None] | None = None
        self._data = bytearray()
        self._transport: Any = None
        self._began = self._last = 0.0
        self._answer = Answer()

    @classmethod
    async def open(cls, port: int) -> "Connection":
        _, protocol = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return protocol

    async def post(self, path: str, body: dict[str, Any]) -> Answer:
        """The whole answer to one request. Raises ConnectionError where the server closes in its midst."""
        data = json.dumps(body).encode()
        host = "Host: 127.0.0.1\r\nContent-Type: application/json\r\n"
        head = f"POST {path} HTTP/1.1\r\n{host}Content-Length: {len(data)}\r\n\r\n"
        self._data.clear()
        self._answer = Answer()
        self._done = asyncio.get_running_loop().create_future()
        self._began = self._last = time.perf_counter()
        self._transport.write(head.encode() + data)
        await self._done
        return self._answer

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._data += data
        if self._answer.first:
            self._answer.gaps.append(now - self._last)
        elif _TEXT.search(data):
            self._answer.first = now - self._began
        self._last = now
        if data.endswith(_END) or not self._is_chunked():
            self._finish_if_whole(now)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError(f"the server closed the connection ({exc})"))

    def _is_chunked(self) -> bool:
        return b"transfer-encoding: chunked" in self._data[:1000].lower()

    def _finish_if_whole(self, now: float) -> None:
        head, separator, body = bytes(self._data).partition(b"\r\n\r\n")
        if not separator or self._done is None or self._done.done():
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "chunked" in headers.get("transfer-encoding", ""):
            if not body.endswith(_END):
                return
            body = _joined(body)
        elif len(body) < int(headers.get("content-length", "0")):
            return
        answer = self._answer
        answer.status, answer.headers = int(first.split()[1]), headers
        answer.body, answer.total = body, now - self._began
        self._done.set_result(None)


def _joined(body: bytes) -> bytes:
    """The content of a chunked body."""
    pieces, at = [], 0
    while True:
        end = body.index(b"\r\n", at)
        length = int(body[at:end], 16)
        if not length:
            return b"".join(pieces)
        pieces.append(body[end + 2 : end + 2 + length])
        at = end + 4 + length
