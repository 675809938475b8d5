"""The form that an answer must have: from what a request asks for to a constraint that the engine takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fathom.engine import Engine
from fathom.engine.constraint import Constraint
from fathom.server.errors import bad_request, invalid
from fathom.server.gateway.engine import UpstreamEngine
from fathom.text import Calls, GrammarError, Message, Tool, answer_grammar
from fathom.text.grammars import ANY_OBJECT
from fathom.text.messages import json_text

__all__ = ["ANY_OBJECT", "Form"]


@dataclass(frozen=True, slots=True)
class Form:
    """What a request says about the form of its answer, in any dialect.

    Attributes:
        schema: the answer is JSON of this schema; None: text.
        shown: whether the schema is told to the model too (JSON mode without a schema asks for it in the prompt).
        tools: what may be called.
        choice: "auto", "none", "required", or the one-element tuple of the tool that must be called.
        parallel: whether there may be several calls.

    """

    schema: Mapping[str, Any] | None = None
    shown: bool = False
    tools: Sequence[Tool] = ()
    choice: Literal["auto", "none", "required"] | tuple[str] = "auto"
    parallel: bool = True

    @property
    def offered(self) -> Sequence[Tool]:
        """The tools that the prompt describes."""
        return () if self.choice == "none" else self.tools

    def constraint(self, engine: Engine) -> Constraint | None:
        """What holds the answer to this form; None for free text. Slow when the form is new. Raises ApiError."""
        calls = self._calls()
        if isinstance(engine, UpstreamEngine):
            return engine.form(self)  # type: ignore[no-any-return]
        if self.schema is None and calls is None:
            return None
        try:
            return self._compiled(engine, calls)
        except GrammarError as error:
            if calls is None or not (lenient := self._lenient(engine, calls)):
                raise self._refusal(error) from error
            try:
                return self._compiled(engine, replace(calls, follow=calls.follow - lenient))
            except GrammarError as again:
                raise self._refusal(again) from again

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation with the schema in its system message, in V3.2's words for it."""
        if self.schema is None or not self.shown:
            return list(messages)
        told = "## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n"
        told += json_text(self.schema)
        if messages[0].role in ("system", "developer"):
            first = replace(messages[0], content=f"{messages[0].content}\n\n{told}" if messages[0].content else told)
            return [first, *messages[1:]]
        return [Message("system", told), *messages]

    def _calls(self) -> Calls | None:
        if self.choice == "none" or not self.tools:
            if self.choice not in ("auto", "none"):
                raise invalid("tool_choice asks for a call, but there are no tools: send tools", "tool_choice")
            return None
        tools = self.tools
        if isinstance(self.choice, tuple):
            tools = [tool for tool in tools if tool.name == self.choice[0]]
            if not tools:
                raise invalid(f"tool_choice names {self.choice[0]!r}, which is not among the tools", "tool_choice")
        required = self.choice != "auto"
        return Calls(tools, required, self.parallel, frozenset(tool.name for tool in tools if required or tool.strict))

    def _compiled(self, engine: Engine, calls: Calls | None) -> Constraint | None:
        grammar = answer_grammar(engine.tokenizer, engine.template.call_format, self.schema, calls)
        return None if grammar is None else engine.constrain(grammar)

    def _lenient(self, engine: Engine, calls: Calls) -> frozenset[str]:
        """The tools that made no promise (`strict`) and whose schema cannot be followed: theirs is any JSON object."""
        failing = set()
        for tool in calls.tools:
            if tool.strict or tool.name not in calls.follow:
                continue
            try:
                self._compiled(engine, replace(calls, tools=[tool]))
            except GrammarError:
                failing.add(tool.name)
        return frozenset(failing)

    def _refusal(self, error: GrammarError) -> Exception:
        return bad_request(str(error), "tools" if self.schema is None else "response_format")
