"""Which model names the API answers to, and what each says about thinking. The one table of the dialect's rules."""

from dataclasses import dataclass

from fathom.server.errors import bad_request


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


def names(served: str) -> list[str]:
    """Every name, the real one first."""
    return [served, *ALIASES]
