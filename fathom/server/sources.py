"""Steps, sources and citations of a search as JSON: the same in every dialect, in the app and in the command."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from fathom.search.citations import url_citations
from fathom.search.engines import Source
from fathom.search.searching import Step
from fathom.server.searched import Cited
from fathom.server.searching import Found


def step_json(step: Step) -> dict[str, Any]:
    """`{"stage": "searching", "queries", "engines"}` or `{"stage": "reading", "pages"}`."""
    if step.stage == "reading":
        return {"stage": "reading", "pages": step.pages}
    return {"stage": "searching", "queries": list(step.queries), "engines": list(step.engines)}


def found_json(found: Found) -> dict[str, Any]:
    """`{"queries", "sources", "notes"}`; a source's `number` is what the model was told to cite."""
    sources = [{"number": number, **dataclasses.asdict(source)} for number, source in enumerate(found.sources, start=1)]
    notes = [dataclasses.asdict(note) for note in found.notes]
    return {"queries": list(found.queries), "sources": sources, "notes": notes}


def annotations(cited: Cited, sources: Sequence[Source]) -> list[dict[str, Any]]:
    """OpenAI's `url_citation`s, each with its `number` in the text, its `source` and whether that supports it."""
    doubtful = set(cited.unsupported)
    return [
        {**annotation, "number": one.number, "source": one.source + 1, "supported": one not in doubtful}
        for one, annotation in zip(cited.citations, url_citations(cited.citations, sources), strict=True)
    ]
