"""`fathom rm REF`: delete a pulled model."""

import argparse

from fathom.cli.terminal import answer_json, human_bytes, note

DESCRIPTION = "Delete a pulled model. Files and folders of your own and the embedded default are never touched."
EXAMPLE = "fathom rm deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which one."""
    parser.add_argument("ref", metavar="REF", help="as `fathom list` shows it")
    parser.add_argument("--json", action="store_true", help="one JSON object: ref, bytes")


def run(arguments: argparse.Namespace) -> int:
    """Delete it."""
    from fathom.checkpoints.sources import remove

    freed = remove(arguments.ref)
    if arguments.json:
        answer_json({"ref": arguments.ref, "bytes": freed})
    else:
        note(f"removed {arguments.ref}, {human_bytes(freed)} freed")
    return 0
