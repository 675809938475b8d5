"""A resolver and connections that never reach a wire."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpcore
import pytest

from fathom.search import fetching


@dataclass
class Wire:
    """What names stand for, what is answered at an address, and what was dialled."""

    names: dict[str, list[list[str]]] = field(default_factory=dict)
    responses: list[bytes] = field(default_factory=list)
    resolved: list[str] = field(default_factory=list)
    dialled: list[tuple[str, int]] = field(default_factory=list)

    def respond(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.responses.append(f"HTTP/1.1 {status} x\r\n{head}Connection: close\r\n\r\n".encode() + body)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire = Wire()

    async def resolve(host: str, port: int) -> list[str]:
        wire.resolved.append(host)
        answers = wire.names.get(host, [[host]])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def dial(address: str, port: int, *rest: object) -> httpcore.AsyncNetworkStream:
        wire.dialled.append((address, port))
        return httpcore.AsyncMockStream([wire.responses.pop(0)])

    monkeypatch.setattr(fetching, "resolve", resolve)
    monkeypatch.setattr(fetching, "dial", dial)
    return wire


@pytest.fixture
def run() -> Callable[[Any], Any]:
    return asyncio.run
