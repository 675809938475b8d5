"""`fathom run PROMPT`: one answer; the prompt may come from stdin."""

import argparse
import sys

from fathom.cli.engines import add_model_flags, model_flags, open_engine
from fathom.cli.errors import CommandError
from fathom.cli.sampling import add_sampling_flags, sampling_params
from fathom.cli.searching import answer_events, find, search_service, show_sources
from fathom.cli.settings import resolve
from fathom.cli.terminal import answer, answer_json, note

DESCRIPTION = (
    "Answer one question. The answer goes to stdout, everything else to stderr. "
    "Without PROMPT, or with -, the question is read from stdin."
)
EXAMPLE = 'fathom run "What is the capital of France?" --max-tokens 64'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The prompt, the model, and how to sample."""
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="the question; - or nothing reads it from stdin")
    parser.add_argument("--think", action="store_true", help="think before answering, where the model can")
    parser.add_argument("--search", action="store_true", help="search first, and answer from sources with citations")
    parser.add_argument("--system", metavar="TEXT", help="an instruction that stands before the question")
    add_model_flags(parser)
    add_sampling_flags(parser)
    parser.add_argument("--verbose", action="store_true", help="tokens and times on stderr at the end")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object: content, reasoning_content, usage, timings, search"
    )


def run(arguments: argparse.Namespace) -> int:
    """Ask and print."""
    prompt = _prompt(arguments.prompt)
    settings = resolve(model_flags(arguments))
    with open_engine(settings) as engine:
        from fathom.cli.transcript import Reply, report, show, summary
        from fathom.text import Message

        messages = [Message("user", prompt)]
        if arguments.system:
            messages.insert(0, Message("system", arguments.system))
        if arguments.think and not engine.template.thinks:
            note(f"{engine.model_name} cannot think: answering without thoughts")
        thinking = arguments.think and engine.template.thinks
        reply = Reply()
        params = sampling_params(arguments, engine, thinking=thinking)
        if arguments.search:
            with search_service(settings) as search:
                reply.found = find(search, engine, messages)
        events = answer_events(engine, messages, reply.found, thinking=thinking, params=params)
        if arguments.json:
            for event in events:
                reply.add(event)
            answer_json(report(reply))
        else:
            show(events, reply)
            answer()
            show_sources(reply.found, reply.cited)
        if arguments.verbose:
            note(summary(reply))
    return 0


def _prompt(given: str | None) -> str:
    prompt = given if given not in (None, "-") else sys.stdin.read()
    if not prompt.strip():
        raise CommandError('There is no prompt: fathom run "QUESTION", or pipe one in', code=2)
    return prompt
