"""`fathom tokenizer`: train a vocabulary of DeepSeek V3's kind."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from fathom.cli.errors import CommandError
from fathom.cli.terminal import answer, answer_json, is_plain

DESCRIPTION = (
    "Train a byte-level BPE tokenizer with DeepSeek V3's pre-tokenizer rules and special tokens, from text files or "
    "from the sources of a data recipe, and write a Hugging Face folder."
)
EXAMPLE = "fathom tokenizer train corpus/recipe.toml --vocab-size 16384 --output corpus/tokenizer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One action so far."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="train")
    train = actions.add_parser("train", help="learn a vocabulary")
    train.add_argument("paths", nargs="+", type=Path, metavar="RECIPE_OR_FILE", help="a recipe (.toml), or text files")
    train.add_argument("--vocab-size", type=int, default=32768, metavar="N", help="all tokens counted (default 32768)")
    train.add_argument("--output", type=Path, required=True, metavar="DIR", help="the folder to write")
    train.add_argument("--megabytes", type=float, default=200.0, metavar="MB", help="text to learn from (default 200)")
    train.add_argument("--overwrite", action="store_true", help="replace a tokenizer that is there")
    train.add_argument("--json", action="store_true", help="one JSON object last")
    train.add_argument("--debug", action="store_true", help="show the traceback of a failure")


def run(arguments: argparse.Namespace) -> int:
    """Train, write, and say how well it compresses."""
    from fathom.text import Tokenizer
    from fathom.text.training import save_tokenizer, train_tokenizer

    if (arguments.output / "tokenizer.json").exists() and not arguments.overwrite:
        raise CommandError(f"{arguments.output} already holds a tokenizer: name another folder, or pass --overwrite")
    texts = list(_texts(arguments.paths, arguments.megabytes * 1e6))
    if not texts:
        raise CommandError("there is no text to learn from")
    backend = train_tokenizer(texts, arguments.vocab_size, progress=not is_plain(sys.stderr))
    save_tokenizer(backend, arguments.output)
    tokenizer = Tokenizer.from_folder(arguments.output)
    sample = texts[:: max(1, len(texts) // 200)]
    size = sum(len(text.encode()) for text in sample)
    bytes_per_token = size / max(1, sum(len(tokenizer.encode(text)) for text in sample))
    report = {
        "folder": str(arguments.output),
        "vocab_size": tokenizer.vocab_size,
        "documents": len(texts),
        "bytes_per_token": round(bytes_per_token, 3),
    }
    if arguments.json:
        answer_json(report)
    else:
        answer(
            f"{tokenizer.vocab_size:,} tokens learnt from {len(texts):,} documents; {bytes_per_token:.2f} bytes per "
            f"token on a sample of them; written to {arguments.output}"
        )
    return 0


def _texts(paths: list[Path], limit: float) -> Iterator[str]:
    from fathom.data.recipe import read_recipe
    from fathom.data.sampling import sample_recipe

    for path in paths:
        if path.suffix == ".toml":
            yield from sample_recipe(read_recipe(path), path.parent, limit / len(paths))
        else:
            with path.open(encoding="utf-8") as file:
                yield file.read(int(limit / len(paths)))
