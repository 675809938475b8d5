"""An answer on the terminal as it comes: thoughts dimmed, the answer plain, tool calls named."""

import dataclasses
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fathom.cli.errors import CommandError
from fathom.cli.terminal import is_plain
from fathom.engine.request import EngineEvent, Finished
from fathom.text import Answer, Thought, ToolCallArguments, ToolCallStart

if TYPE_CHECKING:  # the server's parts cost an answer without a search half a second
    from fathom.server.searched import Cited
    from fathom.server.searching import Found

_DIM, _RESET = "\033[2m", "\033[0m"


@dataclass(slots=True)
class Reply:
    """What came, taken together."""

    content: str = ""
    reasoning_content: str = ""
    calls: list[dict[str, str]] = field(default_factory=list)
    finished: Finished | None = None
    found: "Found | None" = None
    cited: "Cited | None" = None

    def add(self, event: "EngineEvent | Cited") -> None:
        """Take one more event in."""
        match event:
            case Thought(text):
                self.reasoning_content += text
            case Answer(text):
                self.content += text
            case ToolCallStart(_, call_id, name):
                self.calls.append({"id": call_id, "name": name, "arguments": ""})
            case ToolCallArguments(index, text):
                self.calls[index]["arguments"] += text
            case Finished():
                self.finished = event
            case _ if self.found is not None:
                from fathom.server.searched import Cited

                self.cited = event if isinstance(event, Cited) else self.cited


def show(events: "Iterable[EngineEvent | Cited]", reply: Reply) -> None:
    """Print events as they come and gather them in `reply`. Thoughts go to stderr when stdout is not a terminal."""
    thoughts = sys.stderr if is_plain(sys.stdout) else sys.stdout
    coloured = not is_plain(thoughts)
    thinking = False
    try:
        for event in events:
            if isinstance(event, Thought):
                if not thinking and coloured:
                    print(_DIM, end="", file=thoughts)
                thinking = True
                print(event.text, end="", file=thoughts, flush=True)
            elif isinstance(event, Answer):
                if thinking:
                    print(_RESET if coloured else "", end="\n\n", file=thoughts, flush=True)
                thinking = False
                print(event.text, end="", flush=True)
            reply.add(event)
    finally:
        if thinking:
            print(_RESET if coloured else "", file=thoughts, flush=True)


def report(reply: Reply) -> dict[str, Any]:
    """The object of --json: the message, DeepSeek's usage, and the engine's times."""
    from fathom.server.deepseek.accounts import usage_json
    from fathom.server.sources import annotations, found_json

    finished = _ended(reply)
    facts: dict[str, Any] = {
        "content": reply.content,
        "reasoning_content": reply.reasoning_content or None,
        "finish_reason": finished.reason,
        "usage": usage_json([finished.usage]),
        "timings": {
            **dataclasses.asdict(finished.timings),
            "drafted_tokens": finished.usage.drafted_tokens,
            "accepted_tokens": finished.usage.accepted_tokens,
        },
    }
    if reply.calls:
        facts["tool_calls"] = reply.calls
    if reply.found is not None and reply.cited is not None:
        facts["search"] = {**found_json(reply.found), "dropped": reply.cited.dropped}
        facts["annotations"] = annotations(reply.cited, reply.found.sources)
    return facts


def summary(reply: Reply) -> str:
    """Tokens and times on one line."""
    usage, timings = _ended(reply).usage, _ended(reply).timings
    parts = [f"{usage.prompt_tokens} prompt tokens ({usage.cached_tokens} cached)"]
    parts.append(f"{usage.completion_tokens} generated ({usage.thought_tokens} of thought)")
    if timings.first_token_seconds is not None:
        parts.append(f"first after {timings.first_token_seconds:.2f} s")
    if timings.decode_tokens_per_second is not None:
        parts.append(f"{timings.decode_tokens_per_second:.0f} tokens/s")
    if usage.drafted_tokens:
        parts.append(f"{usage.accepted_tokens} of {usage.drafted_tokens} guessed ahead were right")
    return ", ".join([*parts, f"{timings.total_seconds:.2f} s in all"])


def _ended(reply: Reply) -> Finished:
    if reply.finished is None or reply.finished.reason == "error":
        why = reply.finished.error if reply.finished is not None else "it ended without a result"
        raise CommandError(f"The engine failed on this answer: {why}")
    return reply.finished
