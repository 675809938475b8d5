"""Which model names the API answers to, and what each says about thinking. The one table of the dialect's rules."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fathom.server.errors import bad_request

if TYPE_CHECKING:
    from fathom.engine import Engine


@dataclass(frozen=True, slots=True)
class Mode:
    """What a model name implies: `thinks` True or False as DeepSeek documents it, None: as the model does by itself."""

    thinks: bool | None


# https://api-docs.deepseek.com/quick_start/pricing and the change log: what each name of DeepSeek's API stands for.
ALIASES = {
    "deepseek-chat": Mode(thinks=False),
    "deepseek-reasoner": Mode(thinks=True),
    "deepseek-v4-flash": Mode(thinks=None),
    "deepseek-v4-pro": Mode(thinks=None),
}
# Most tokens to generate when a request does not say (V3.1's documented defaults for chat and reasoner).
DEFAULT_MAX_TOKENS = 4096
DEFAULT_MAX_TOKENS_THINKING = 32768
ANSWER_TOKENS = 4096  # kept for the answer when a thought is long, but at most a quarter of what was asked for


def mode_of(name: str, served: str) -> Mode:
    """What `name` asks of the model served; ApiError 400 "Model Not Exist" for a name that is neither."""
    if name == served:
        return Mode(thinks=None)
    try:
        return ALIASES[name]
    except KeyError:
        names = ", ".join([served, *ALIASES])
        raise bad_request(
            f"Model Not Exist: {name!r}. This server answers to: {names}", "model", "model_not_found"
        ) from None


def thinking_asked(name: str, switch: bool | None, effort: str | None, engine: "Engine") -> tuple[bool, list[str]]:
    """Whether the model shall think, and what the client should know about that.

    `switch` (an explicit choice) counts before the model's name, that before `effort`, that before the model's habit.
    """
    mode, can = mode_of(name, engine.model_name), engine.template.thinks
    asked = mode.thinks if switch is None else switch
    if asked is None and effort is not None:
        asked = effort != "none"
    warnings = []
    if effort not in (None, "none"):
        warnings.append(f"the effort {effort} has no effect: {engine.model_name} knows only thinking and not")
    if asked and not can:
        warnings.append(f"{engine.model_name} cannot think: answered without thoughts")
    return (can if asked is None else asked and can), warnings


def names(served: str) -> list[str]:
    """Every name, the real one first."""
    return [served, *ALIASES]
