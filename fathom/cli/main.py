"""`fathom`: one verb, one file. Starts without torch, so that --help and --version answer at once."""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from fathom import __version__
from fathom.cli.errors import CommandError
from fathom.cli.terminal import note

VERBS = {
    "serve": "the API and the chat page, on this machine",
    "chat": "a conversation in the terminal",
    "run": "one question, one answer",
    "pull": "get a model",
    "list": "the models on this machine",
    "show": "what a model is: architecture, size, cache, licence",
    "rm": "delete a model from this machine",
    "search": "the sources for a question: own documents, and the web if you name an engine",
    "index": "the own documents that search looks through",
    "plan": "what a model costs to train and to serve",
    "export": "write a checkpoint for other engines",
    "data": "training data: text to token shards, and an open corpus to begin with",
    "tokenizer": "train a vocabulary",
    "train": "a model from token shards, from conversations, or by reinforcement, as a recipe says",
    "eval": "a report card: how often a model is right",
    "speedrun": "raw text to a chat model with a report, in one command",
    "keys": "API keys: create, list, revoke",
    "users": "who may log in to the app: add, list, passwd, rm",
    "usage": "what was asked of this server, and what it cost",
    "config": "the settings, and where each comes from",
    "bench": "what this machine does with a model",
    "doctor": "whether this machine has what Fathom needs",
}
EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


class Verb(Protocol):
    """What a module of a verb has."""

    DESCRIPTION: str
    EXAMPLE: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0 (done), 1 (failed), 2 (used wrongly) or 130 (interrupted)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        note("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `fathom list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except CommandError as error:
        note(f"fathom: {error}")
        return error.code
    except Exception as error:  # noqa: BLE001 - a person gets one line; --debug shows the rest
        if "--debug" in arguments:
            traceback.print_exc()
        else:
            note(f"fathom: {str(error) or type(error).__name__} (--debug shows where)")
        return EXIT_FAILURE


def _dispatch(arguments: list[str]) -> int:
    verb = next((argument for argument in arguments if not argument.startswith("-")), None)
    top = _top_parser()
    if verb not in VERBS or arguments[0] in ("-h", "--help", "--version"):
        top.parse_args(arguments)  # answers --help and --version, refuses unknown verbs
        top.print_help(sys.stderr)
        return EXIT_USAGE
    module = cast(Verb, importlib.import_module(f"fathom.cli.{_module_name(verb)}"))
    parser = verb_parser(verb, module)
    parsed = parser.parse_args(arguments[arguments.index(verb) + 1 :])
    return module.run(parsed)


def _module_name(verb: str) -> str:
    return {"list": "list_models", "rm": "remove"}.get(verb, verb)


def _top_parser() -> argparse.ArgumentParser:
    lines = "\n".join(f"  {verb:<8} {about}" for verb, about in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="fathom",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="DeepSeek, open end to end: models, engine, API and chat on your own machine.",
        epilog=f'verbs:\n{lines}\n\nexample:\n  fathom run "What is the capital of France?"\n\n'
        "fathom VERB --help says more about each.",
    )
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help="what to do")
    parser.add_argument("--version", action="version", version=f"fathom {__version__}")
    return parser


def verb_parser(verb: str, module: Verb) -> argparse.ArgumentParser:
    """The parser of one verb, with its example and the flags that all verbs have."""
    parser = argparse.ArgumentParser(
        prog=f"fathom {verb}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=module.DESCRIPTION,
        epilog=f"example:\n  {module.EXAMPLE}",
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    return parser


if __name__ == "__main__":
    sys.exit(main())
