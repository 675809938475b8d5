"""What can be asked of a model in a search, by its size."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fathom.engine import Engine

LEAST_PARAMETERS = 10**9  # smaller models answer the question instead of rewriting it, and never cite


def size_of(engine: "Engine") -> Literal["able", "small", "unknown"]:
    """Whether the model is large enough to write queries and to follow the search prompt."""
    from fathom.costs.model import model_costs

    if engine.config is None:
        return "unknown"
    return "able" if model_costs(engine.config).parameters_total >= LEAST_PARAMETERS else "small"
