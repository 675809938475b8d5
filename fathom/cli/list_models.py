"""`fathom list`: the models on this machine."""

import argparse

from fathom.cli.terminal import answer, answer_json, human_bytes, note, table

DESCRIPTION = "List the models on this machine: the embedded default and what was pulled."
EXAMPLE = "fathom list --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing but the form."""
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    from fathom.checkpoints.sources import installed

    models = installed()
    if arguments.json:
        entries = [
            {"ref": one.ref, "path": str(one.path), "bytes": one.bytes, "revision": one.revision} for one in models
        ]
        answer_json({"models": entries})
        return 0
    if not models:
        note("No model is here yet: `make install` gets the default one, `fathom pull ORG/NAME` another")
    for line in table([(one.ref, human_bytes(one.bytes), str(one.path)) for one in models], ("model", "size", "path")):
        answer(line)
    return 0
