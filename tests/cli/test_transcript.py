"""How an answer looks: thoughts dimmed on a terminal, on stderr and plain elsewhere."""

import sys

import pytest

from fathom.cli import terminal, transcript
from fathom.cli.errors import CommandError
from fathom.cli.transcript import Reply, report, show, summary
from fathom.engine import Finished, Timings, Usage
from fathom.text import Answer, Thought, ToolCallArguments, ToolCallStart

TIMINGS = Timings(0.1, 0.2, 1.0, 50.0, 20.0)
EVENTS = [
    Thought("Hm. "),
    Thought("Yes."),
    Answer("It is "),
    Answer("so."),
    Finished("stop", Usage(5, 0, 4, 2, drafted_tokens=6, accepted_tokens=3), TIMINGS),
]


def test_on_a_terminal_thoughts_are_dimmed(monkeypatch, capsys):
    monkeypatch.setattr(transcript, "is_plain", lambda stream: False)
    reply = Reply()
    show(EVENTS, reply)
    assert capsys.readouterr().out == "\033[2mHm. Yes.\033[0m\n\nIt is so."
    assert (reply.content, reply.reasoning_content) == ("It is so.", "Hm. Yes.")


def test_elsewhere_stdout_has_the_answer_alone(capsys):
    show(EVENTS, Reply())
    shown = capsys.readouterr()
    assert shown.out == "It is so."
    assert shown.err.strip() == "Hm. Yes."
    assert "\033" not in shown.err


def test_a_thought_that_is_cut_off_leaves_the_terminal_undimmed(monkeypatch, capsys):
    monkeypatch.setattr(transcript, "is_plain", lambda stream: False)

    def interrupted():
        yield Thought("Hm.")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        show(interrupted(), Reply())
    assert capsys.readouterr().out == "\033[2mHm.\033[0m\n"


def test_no_color_is_obeyed(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert not terminal.is_plain(sys.stdout)
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.is_plain(sys.stdout)


def test_the_report_has_the_promised_keys():
    reply = Reply()
    for event in [ToolCallStart(0, "c", "f"), ToolCallArguments(0, "{}"), *EVENTS]:
        reply.add(event)
    facts = report(reply)
    assert (facts["content"], facts["reasoning_content"], facts["finish_reason"]) == ("It is so.", "Hm. Yes.", "stop")
    assert facts["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2
    assert facts["timings"]["decode_tokens_per_second"] == 20.0
    assert (facts["timings"]["drafted_tokens"], facts["timings"]["accepted_tokens"]) == (6, 3)
    assert facts["tool_calls"] == [{"id": "c", "name": "f", "arguments": "{}"}]
    assert "20 tokens/s" in summary(reply)
    assert "3 of 6 guessed ahead were right" in summary(reply)


def test_an_engine_that_failed_is_not_reported_as_an_answer():
    reply = Reply()
    reply.add(Finished("error", Usage(1, 0, 0, 0), TIMINGS, error="out of memory"))
    with pytest.raises(CommandError, match="out of memory"):
        report(reply)
