"""From one request's tokens to its events: text by the dialect's parser, stop strings held back and never shown."""

from collections.abc import Sequence

from fathom.engine.request import EngineEvent, OnEvent, TokenLogprobs
from fathom.engine.sampler import TokenChoice
from fathom.text import Answer, Event, StreamParser, ToolCallStart


class StopStrings:
    """Finds stop strings in text that comes in pieces; holds back what might be the beginning of one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""
        self.found: str | None = None

    @property
    def holds(self) -> bool:
        """Whether text is held back."""
        return bool(self._held)

    def push(self, text: str) -> str:
        """The part of all text so far that may be shown now. After a stop string is found: what came before it."""
        text = self._held + text
        places = [(at + len(stop), at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if places:
            _, place, self.found = min(places)  # the first to be complete, so it does not matter how the text was cut
            self._held = ""
            return text[:place]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What was held back, when no more text follows it."""
        text, self._held = self._held, ""
        return text


class Output:
    """Sends one request's events, in order. After `push` returned True nothing more is sent: a stop string came."""

    def __init__(self, parser: StreamParser, stop: Sequence[str], send: OnEvent) -> None:
        self._parser = parser
        self._stop = StopStrings(stop) if stop else None
        self._send = send
        self._held_logprobs: list[EngineEvent] = []
        self.calls_tools = False

    @property
    def stop_string(self) -> str | None:
        """The stop string that came, if one did."""
        return self._stop.found if self._stop else None

    @property
    def thought_tokens(self) -> int:
        """Tokens of thought so far."""
        return self._parser.thought_tokens

    @property
    def in_thought(self) -> bool:
        """Whether the next token belongs to a thought."""
        return self._parser.place == "thought"

    def push(self, choice: TokenChoice) -> bool:
        """Send what one more token completes; True when its text completes a stop string."""
        before = self._parser.thought_tokens
        events = self._parser.push(choice.token)
        if choice.logprob is not None:
            thought = self._parser.thought_tokens > before
            self._held_logprobs.append(TokenLogprobs(choice.token, choice.logprob, choice.alternatives, thought))
        return self._pass_on(events)

    def finish(self) -> bool:
        """Send what was held back; True when the last text completes a stop string."""
        if self._pass_on(self._parser.finish()):
            return True
        if self._stop and (text := self._stop.flush()):
            self._send(Answer(text))
        self._release_logprobs()
        return False

    def _pass_on(self, events: Sequence[Event]) -> bool:
        shown: list[Event] = []
        for event in events:
            shown += self._filtered(event)
            if self.stop_string is not None:
                break
        if not (self._stop and self._stop.holds) and self.stop_string is None:
            self._release_logprobs()
        for event in shown:
            self._send(event)
        return self.stop_string is not None

    def _filtered(self, event: Event) -> Sequence[Event]:
        if isinstance(event, ToolCallStart):
            self.calls_tools = True
        if self._stop is None:
            return (event,)
        if isinstance(event, Answer):
            return _answer(self._stop.push(event.text))
        return (*_answer(self._stop.flush()), event)  # a stop string does not reach over a thought or a tool call

    def _release_logprobs(self) -> None:
        for event in self._held_logprobs:
            self._send(event)
        self._held_logprobs.clear()


def _answer(text: str) -> Sequence[Event]:
    return (Answer(text),) if text else ()


def _overlap(text: str, stop: str) -> int:
    """Length of the longest proper beginning of `stop` that `text` ends with."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
