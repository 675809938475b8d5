"""What the engine refuses, and how it says so. Each message tells the caller what to do next."""


class EngineError(Exception):
    """Base of every error that the engine raises."""


class InvalidRequestError(EngineError, ValueError):
    """A request asks for something that cannot be; the message names the parameter and what it accepts."""


class PromptTooLongError(InvalidRequestError):
    """A prompt does not fit into the context, or into the whole cache. Prompts are never clipped."""


class QueueFull(EngineError):  # noqa: N818 - named like the standard library's queue.Full
    """The waiting queue is at its bound, in requests or in prompt tokens; nothing was accepted. Try again later."""


class EngineClosedError(EngineError):
    """The engine was closed, or can no longer go on; a new one has to be loaded."""


class RequestFailedError(EngineError):
    """A request that was accepted ended in an error inside the engine; the log holds the traceback."""
