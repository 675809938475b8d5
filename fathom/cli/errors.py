"""What a command says when it cannot do what it was asked to."""


class CommandError(Exception):
    """A failure with a message that names the next step; the command exits with `code`."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code
