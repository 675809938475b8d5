"""Sources and citations as the page gets them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from fathom.app.messages import Message
from fathom.search.citations import stored_citations, unsupported
from fathom.search.engines import Source

_FIELDS = [one.name for one in dataclasses.fields(Source)]


def source_json(number: int, source: Source) -> dict[str, Any]:
    """A source with its number in the text and the site's name."""
    site = urlsplit(source.url).hostname
    return {"number": number, **dataclasses.asdict(source), "site": site, "cited": False}


def sources_of(sources: Sequence[Mapping[str, Any]]) -> list[Source]:
    """Stored sources as Search made them."""
    return [Source(**{name: source[name] for name in _FIELDS}) for source in sources]


def marked(message: Message) -> None:
    """Note which sources an answer cites, and which of its citations rest on nothing that the source says."""
    sources = sources_of(message.sources)
    citations = stored_citations(message.content, len(sources))
    doubtful = set(unsupported(message.content, citations, sources))
    message.citations = [{"source": one.source + 1, "supported": one not in doubtful} for one in citations]
    cited = {one.source for one in citations}
    message.sources = [{**source, "cited": place in cited} for place, source in enumerate(message.sources)]
