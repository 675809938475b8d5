"""From a generation to either form of the answer, for every dialect: a stream, or the sum of what would be streamed."""

from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from starlette.responses import Response

from fathom.engine.request import Finished
from fathom.server.config import ServerConfig
from fathom.server.dialects import OPENAI, Chunk, Dialect
from fathom.server.generation import Generation, failure
from fathom.server.searched import SearchedGeneration, ServerEvent
from fathom.server.sse import EventStream, WholeAnswer


class ChunkMaker(Protocol):
    """What turns events into chunks and chunks into a whole answer; one for each form of the API."""

    def chunks(self, choice: int, event: ServerEvent) -> list[Chunk]:
        """What an event of the choice with this index adds to the stream."""

    def whole(self, chunks: Iterable[Chunk]) -> dict[str, Any]:
        """The whole answer."""


def respond(
    generation: Generation | SearchedGeneration,
    maker: ChunkMaker,
    config: ServerConfig,
    *,
    stream: bool,
    warnings: list[str],
    dialect: Dialect = OPENAI,
    opening: Sequence[Chunk] = (),
) -> Response:
    """Either form of the answer, from the same chunks; `opening` is sent before the engine has said anything."""
    said = "; ".join(warnings).encode("ascii", "replace").decode()  # a model's name may be in any script
    headers = {"x-fathom-warning": said} if warnings else {}
    source = chunk_batches(generation, maker, opening)
    if stream:
        accepted = (
            partial(generation.accepted, config.keep_alive_seconds) if isinstance(generation, Generation) else None
        )
        return EventStream(source, config, headers, generation, dialect, accepted)
    return WholeAnswer(_sum(source, maker), config, headers, generation, dialect)


async def chunk_batches(
    generation: Generation | SearchedGeneration, maker: ChunkMaker, opening: Sequence[Chunk]
) -> AsyncIterator[Sequence[Chunk]]:
    """The chunks of what has arrived, batch by batch; ApiError when the engine fails on the way."""
    if opening:
        yield opening
    async for events in generation:
        chunks: list[Chunk] = []
        for choice, event in events:
            chunks += maker.chunks(choice, event)
        if chunks:
            yield chunks
        for _, event in events:
            if isinstance(event, Finished) and event.reason == "error":
                raise failure(event)


async def _sum(source: AsyncIterator[Sequence[Chunk]], maker: ChunkMaker) -> dict[str, Any]:
    return maker.whole([chunk async for chunks in source for chunk in chunks])
