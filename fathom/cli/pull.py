"""`fathom pull REF`: get a model from a hub."""

import argparse
import sys

from fathom.cli.terminal import answer_json, is_plain, note

DESCRIPTION = "Fetch a model into FATHOM_HOME. Interrupted downloads go on where they stopped; checksums are verified."
EXAMPLE = "fathom pull deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which one."""
    parser.add_argument("ref", metavar="REF", help="ORG/NAME[@revision][:file.gguf]; HF_TOKEN is honoured")
    parser.add_argument("--json", action="store_true", help="one JSON object: ref, path")


def run(arguments: argparse.Namespace) -> int:
    """Fetch it."""
    from fathom.checkpoints.hub import pull

    path = pull(arguments.ref, progress=not is_plain(sys.stderr))
    if arguments.json:
        answer_json({"ref": arguments.ref, "path": str(path)})
    else:
        note(f"{arguments.ref} is at {path}; try: fathom run --model {arguments.ref} Hello")
    return 0
