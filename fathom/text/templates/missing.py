"""The template of a model that has none: a base model, which continues text and holds no conversations."""

from collections.abc import Sequence
from typing import Never

from fathom.text.errors import TemplateError
from fathom.text.messages import Message, Tool
from fathom.text.templates.prompt import Prompt


class MissingTemplate:
    """Refuses every conversation, saying why; plain completions need no template."""

    name = "none"
    thinks = False
    call_format = None

    def __init__(self, why: str) -> None:
        self.why = why

    def render(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), thinking: bool = False) -> Never:  # noqa: ARG002
        """Raise TemplateError."""
        raise TemplateError(self.why)

    def parser(self, prompt: Prompt) -> Never:  # noqa: ARG002
        """Raise TemplateError: there is no prompt whose answer could be parsed."""
        raise TemplateError(self.why)
