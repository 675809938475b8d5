"""`fathom index`: the own documents that Search looks through."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fathom.cli.errors import CommandError
from fathom.cli.terminal import answer, answer_json, note, table

if TYPE_CHECKING:
    from fathom.search.index import Index

DESCRIPTION = (
    "Your own documents for Search: add folders, files and pages, list and remove them. They stay on this machine. "
    "Adding again reads what has changed and forgets what is gone."
)
EXAMPLE = "fathom index add ~/recipes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """add, list, rm."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="add|list|rm")
    add = actions.add_parser("add", help="read a folder, a file or a page")
    add.add_argument("places", nargs="+", metavar="DIR|FILE|URL", help="what to read")
    add.add_argument("--allow-private", action="store_true", help="open URLs of this machine and network too")
    remove = actions.add_parser("rm", aliases=["remove"], help="forget what was added")
    remove.add_argument("places", nargs="+", metavar="DIR|FILE|URL", help="as `fathom index list` shows it")
    for action in (add, remove, actions.add_parser("list", help="what was added")):
        action.add_argument("--json", action="store_true", help="as one JSON object")
        action.add_argument("--debug", action="store_true", help="show the traceback of a failure")


def index_path() -> Path:
    """Where the index lies."""
    from fathom.checkpoints.sources import home

    return home() / "search" / "index.sqlite3"


def run(arguments: argparse.Namespace) -> int:
    """Do it and say what happened."""
    from fathom.search.index import Index

    with Index(index_path()) as index:
        if arguments.action == "add":
            return max(_add(index, place, arguments) for place in arguments.places)
        if arguments.action in ("rm", "remove"):
            return max(_remove(index, place, arguments.json) for place in arguments.places)
        roots = index.roots()
    if arguments.json:
        entries = [{"place": place, "documents": documents, "characters": size} for place, documents, size in roots]
        answer_json({"places": entries})
    elif roots:
        rows = [(place, f"{documents:,}", f"{size:,}") for place, documents, size in roots]
        for line in table(rows, ("place", "documents", "characters")):
            answer(line)
    else:
        note("The index is empty: `fathom index add DIR` reads a folder of yours")
    return 0


def _is_url(place: str) -> bool:
    return "://" in place


def _add(index: "Index", place: str, arguments: argparse.Namespace) -> int:
    from fathom.search.documents import add_path, add_url
    from fathom.search.extraction import Extractor
    from fathom.server.word_vectors import stored_word_vectors, word_vectors

    if stored_word_vectors() is None:
        note("making word vectors of the default model, once on this machine")
        word_vectors()
    with Extractor() as extractor:
        if _is_url(place):
            import asyncio

            report = asyncio.run(add_url(index, place, extractor, allow_private=arguments.allow_private))
        else:
            report = add_path(index, Path(place), extractor)
    counts = {"added": report.added, "unchanged": report.unchanged, "removed": report.removed}
    if arguments.json:
        answer_json({"place": place, **counts, "skipped": report.skipped})
    else:
        for line in report.skipped:
            note(f"left out: {line}")
        answer(f"{place}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
    return 0 if report.added + report.unchanged else 1


def _remove(index: "Index", place: str, as_json: bool) -> int:
    names = [place] if _is_url(place) else [str(Path(place).expanduser().resolve())]
    removed = sum(
        index.remove(name) for name in [*names, *(Path(name).as_uri() for name in names if not _is_url(place))]
    )
    if not removed:
        raise CommandError(f"{place} is not in the index; `fathom index list` shows what is")
    if as_json:
        answer_json({"place": place, "removed": removed})
    else:
        answer(f"{place}: {removed:,} removed")
    return 0
