"""What can go wrong with text, each error saying what to do next."""


class TextError(ValueError):
    """Base of every error of this package."""


class TokenizerError(TextError):
    """A vocabulary that is missing, damaged or of a kind that Fathom does not read."""


class TemplateError(TextError):
    """A chat template that is missing, fails, goes over its limits, or is asked for what it cannot do."""


class MessageError(TemplateError):
    """A conversation that cannot be rendered; `index` and `field` say where (`index` is None for the whole list)."""

    def __init__(self, list_name: str, index: int | None, field: str | None, problem: str) -> None:
        self.index = index
        self.field = field
        place = list_name if index is None else f"{list_name}[{index}]"
        super().__init__(f"{place}{'.' + field if field else ''}: {problem}")
