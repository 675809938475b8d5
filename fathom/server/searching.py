"""Search for an answer: from a conversation to numbered sources and the prompt that holds them.

One face for every dialect, for the app's runs and for the command. It knows no dialect and starts no generation; what
it finds goes through `fathom.server.searched` while the answer is generated.
"""

import asyncio
import datetime
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from fathom.search.configured import EngineSettings, web_engines
from fathom.search.engines import LocalEngine, SearchEngine, Source
from fathom.search.extraction import Extractor
from fathom.search.index import Excerpt, Index
from fathom.search.prompts import fit_passages, search_prompt, short_prompt
from fathom.search.quotes import quotes
from fathom.search.restriction import Restriction
from fathom.search.searching import DEFAULT_SOURCES, UNRESTRICTED, Note, Progress, Searcher, SearchResult
from fathom.server.ability import size_of
from fathom.server.errors import ApiError, bad_request
from fathom.server.own_documents import OwnDocuments
from fathom.server.queries import keywords, queries_for
from fathom.text import Message, TextError

if TYPE_CHECKING:
    from fathom.engine import Engine

log = logging.getLogger("fathom.server")

PASSAGE_TOKENS = 3072  # of sources in one prompt, where the model's context has room for them
SMALL_MODELS_SOURCES = 2  # more texts mislead a small model more than they tell it
ANSWER_TOKENS = 1024  # of the context that sources leave free


@dataclass(frozen=True, slots=True)
class Found:
    """What a search gave. Source number N of the prompt is `sources[N - 1]`; `notes` say what failed, also that
    nothing was found. `messages` is the conversation with the search prompt in place of its last user's turn.
    """

    queries: tuple[str, ...]
    sources: tuple[Source, ...]
    notes: tuple[Note, ...]
    messages: tuple[Message, ...]
    opening: str = ""


class SearchService:
    """The engines, own documents and page reader of this machine. Opened at the first search; thread-safe.

    `documents_for`: names of keys and users who may search the own documents, besides whoever has no key.
    """

    def __init__(
        self, settings: EngineSettings, index_path: Path, *, documents_for: frozenset[str] = frozenset()
    ) -> None:
        self._settings = settings
        self._documents_for = documents_for
        self.extractor = Extractor()  # also for files that people bring
        self._documents = OwnDocuments(index_path, self.extractor)

    @property
    def index(self) -> Index:
        """The own documents."""
        return self._documents.index

    def places(self) -> list[dict[str, str | None]]:
        """Which engines are asked and where a question goes: `engine`, `where` ("machine" or "web"), `host`."""
        web = [(engine.name, urlsplit(getattr(engine, "url", "")).hostname) for engine in web_engines(self._settings)]
        places: list[dict[str, str | None]] = [{"engine": "own documents", "where": "machine", "host": None}]
        return places + [{"engine": name, "where": "web", "host": host} for name, host in web]

    async def find(
        self,
        engine: "Engine",
        messages: Sequence[Message],
        progress: Progress | None = None,
        *,
        caller: str | None = None,
        question: str | None = None,
        own: Sequence[SearchEngine] = (),
        restriction: Restriction = UNRESTRICTED,
        k: int = DEFAULT_SOURCES,
    ) -> Found:
        """Search for the last user's turn and put what is found into it. What fails becomes a note.

        Args:
            engine: whose context bounds the sources.
            messages: the conversation, a turn of the user among it.
            progress: told each step, on the event loop.
            caller: name of the key or user who asks; None: the owner of this machine.
            question: what to look for, where the turn holds more than it (files).
            own: more engines for this search, such as the files of a conversation.
            restriction: engines and sites to use.
            k: most sources.

        Raises:
            ApiError: there is no turn of the user, or the template cannot render the conversation.

        """
        place = last_user_turn(messages)
        asked = question or messages[place].content or ""
        notes: list[Note] = []

        async def search() -> SearchResult:
            engines = [*own, *await self._own_documents(caller, notes), *web_engines(self._settings)]
            private, vectors = self._settings.private_origins, self._documents.vectors
            searcher = Searcher(engines, extractor=self.extractor, private_origins=private, vectors=vectors)
            queries = await queries_for(engine, messages, place, asked)
            result = await searcher.search(*queries, k=k, restriction=restriction, progress=progress)
            if result.sources or (once_more := keywords(asked)) in ("", *queries):
                return result
            return await searcher.search(once_more, k=k, restriction=restriction, progress=progress)

        result = await _survived(search(), asked)
        return await asyncio.to_thread(_place, engine, messages, place, asked, result, notes)

    def excerpt(self, passage: str, caller: str | None = None) -> Excerpt:
        """The passage of an own document that a source names, in its surroundings. Raises ApiError 404.

        Who may not search the own documents is told the same as who asks for what is not there.
        """
        found = self.index.excerpt(passage) if self._may_see_documents(caller) else None
        if found is None:
            raise ApiError(404, "This passage is not in the own documents (any more): search again")
        return found

    def _may_see_documents(self, caller: str | None) -> bool:
        return caller is None or caller in self._documents_for

    async def _own_documents(self, caller: str | None, notes: list[Note]) -> list[SearchEngine]:
        if caller is None or self._may_see_documents(caller):
            return [LocalEngine(await self._documents.fresh())]
        text = "this machine's own documents are searched only for its owner, and for whom documents_for names"
        notes.append(Note("documents_private", caller, text))
        return []

    def close(self) -> None:
        """Close what was opened."""
        self._documents.close()
        self.extractor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _survived(search: Awaitable[SearchResult], asked: str) -> SearchResult:
    """The search's result, or none with a note: whatever breaks in it, the answer goes on."""
    try:
        return await search
    except Exception as error:
        log.exception("a search failed")
        note = Note("search_failed", type(error).__name__, f"the search failed: {error}; the server's log has more")
        return SearchResult((asked,), (), (note,))


def last_user_turn(messages: Sequence[Message]) -> int:
    """The place of the turn that is searched for. Raises ApiError 400 where nobody asks anything."""
    for place in reversed(range(len(messages))):
        if messages[place].role == "user" and (messages[place].content or "").strip():
            return place
    raise bad_request("search needs a message of the user that asks something", "messages")


def _place(
    engine: "Engine",
    messages: Sequence[Message],
    place: int,
    asked: str,
    result: SearchResult,
    notes: Sequence[Note],
) -> Found:
    """Sources cut to the room that the conversation leaves, and the prompt with them."""
    question = messages[place].content or ""
    today = datetime.datetime.now().astimezone().date()

    def count(text: str) -> int:
        return len(engine.tokenizer.encode(text))

    def placed(sources: Sequence[Source]) -> tuple[Message, ...]:
        turn = replace(messages[place], content=prompt_of(engine, question, sources, today))
        return (*messages[:place], turn, *messages[place + 1 :])

    room = engine.max_tokens - ANSWER_TOKENS - _rendered_tokens(engine, placed(()))
    sources = fit_passages(result.sources, min(room, PASSAGE_TOKENS), count)
    notes = [*notes, *result.notes]
    if result.sources and not sources:
        text = "the conversation fills the model's context and leaves no room for sources: begin a new one"
        notes.append(Note("no_room", engine.model_name, text))
    is_begun = place + 1 < len(messages)
    opening = quotes(asked, sources) if size_of(engine) == "small" and not is_begun else ""
    return Found(result.queries, tuple(sources), tuple(notes), placed(sources), opening)


def prompt_of(engine: "Engine", question: str, sources: Sequence[Source], today: datetime.date) -> str:
    """The user's turn with its sources: DeepSeek's search prompt, or the best few texts for a model that is small."""
    if size_of(engine) == "small":
        return short_prompt(question, sources[:SMALL_MODELS_SOURCES])
    return search_prompt(question, sources, today)


def _rendered_tokens(engine: "Engine", messages: Sequence[Message]) -> int:
    try:
        return len(engine.render(messages).ids)
    except TextError as error:
        raise bad_request(str(error), "messages") from error
