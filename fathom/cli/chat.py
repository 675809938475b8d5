"""`fathom chat`: a conversation in the terminal."""

import argparse
import sys
from typing import TYPE_CHECKING

from fathom.cli.engines import add_model_flags, model_flags, open_engine
from fathom.cli.sampling import add_sampling_flags, sampling_params
from fathom.cli.searching import answer_events, find, search_service, show_sources
from fathom.cli.settings import resolve
from fathom.cli.terminal import bold, is_plain, note

if TYPE_CHECKING:
    from fathom.engine import Engine
    from fathom.server.searching import SearchService
    from fathom.text import Message

DESCRIPTION = "Talk with the model. Ctrl-C stops an answer, Ctrl-D leaves; /help lists what else there is."
EXAMPLE = "fathom chat --think"
HELP = """  /new     begin a new conversation
  /think   turn thinking on or off
  /search  turn search on or off: answers from sources, with citations
  /help    this list
  /exit    leave (also Ctrl-D); Ctrl-C stops an answer"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model and how to sample."""
    parser.add_argument("--think", action="store_true", help="think before answering, where the model can")
    parser.add_argument("--search", action="store_true", help="search before every answer, and cite")
    parser.add_argument("--system", metavar="TEXT", help="an instruction that stands before the conversation")
    add_model_flags(parser)
    add_sampling_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Talk until the person leaves."""
    settings = resolve(model_flags(arguments))
    with open_engine(settings) as engine, search_service(settings) as search:
        conversation = Conversation(engine, search, arguments)
        note(f"{bold(engine.model_name, sys.stderr)}: ask something. /help lists commands, Ctrl-D leaves.")
        if arguments.think:
            conversation.set_thinking(on=True)
        if arguments.search:
            conversation.set_searching(on=True)
        while (line := _read_line()) is not None:
            if line.startswith("/"):
                if not conversation.obey(line):
                    break
            elif line:
                conversation.ask(line)
    return 0


class Conversation:
    """The messages so far, and whether to think about the next one and to search for it."""

    def __init__(self, engine: "Engine", search: "SearchService", arguments: argparse.Namespace) -> None:
        self._engine = engine
        self._search = search
        self._searching = False
        self._arguments = arguments
        self._thinking = False
        self._messages: list[Message] = []
        self._begin()

    def _begin(self) -> None:
        from fathom.text import Message

        system = self._arguments.system
        self._messages = [Message("system", system)] if system else []

    def obey(self, command: str) -> bool:
        """Carry out a /command; False to leave."""
        match command.split()[0]:
            case "/exit" | "/quit" | "/bye":
                return False
            case "/new":
                self._begin()
                note("a new conversation")
            case "/think":
                self.set_thinking(on=not self._thinking)
            case "/search":
                self.set_searching(on=not self._searching)
            case "/help":
                note(HELP)
            case unknown:
                note(f"there is no {unknown}:\n{HELP}")
        return True

    def set_thinking(self, *, on: bool) -> None:
        """Think from now on, or not, and say so."""
        if on and not self._engine.template.thinks:
            note(f"{self._engine.model_name} cannot think")
            return
        self._thinking = on
        note(f"thinking is {'on' if on else 'off'}")

    def set_searching(self, *, on: bool) -> None:
        """Search from now on, or not, and say so."""
        self._searching = on
        note(f"search is {'on' if on else 'off'}")

    def ask(self, question: str) -> None:
        """One turn. Ctrl-C keeps what was said so far in the conversation."""
        from fathom.cli.transcript import Reply, show
        from fathom.engine.errors import EngineError
        from fathom.text import Message

        asked = [*self._messages, Message("user", question)]
        reply = Reply()
        params = sampling_params(self._arguments, self._engine, thinking=self._thinking)
        try:
            if self._searching:
                reply.found = find(self._search, self._engine, asked)
            show(answer_events(self._engine, asked, reply.found, thinking=self._thinking, params=params), reply)
        except KeyboardInterrupt:
            note("\n(stopped)")
        except EngineError as error:
            note(f"fathom: {error}. /new begins a shorter conversation")
            return
        print(flush=True)
        show_sources(reply.found, reply.cited)
        if reply.finished is not None and reply.finished.reason == "length":
            note("(cut: the answer reached its limit of tokens)")
        if reply.finished is not None and reply.finished.reason == "error":
            note(f"fathom: the engine failed on this answer: {reply.finished.error}")
            return
        self._messages = [
            *asked,
            Message("assistant", reply.content, reasoning_content=reply.reasoning_content or None),
        ]


def _read_line() -> str | None:
    """What the person types, None when they leave. Ctrl-C clears the line."""
    if sys.stdin.isatty():
        import readline  # noqa: F401 - editing and history for input()
    prompt = "" if is_plain(sys.stdout) and not sys.stdin.isatty() else "> "
    while True:
        try:
            return input(prompt).strip()
        except KeyboardInterrupt:
            note("\n(Ctrl-D leaves)")
        except EOFError:
            if prompt:
                note("")
            return None
