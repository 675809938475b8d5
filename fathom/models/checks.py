"""Small checks that every value of an untrusted config passes before anything is built from it."""

import math
from collections.abc import Collection, Mapping
from difflib import get_close_matches


class ConfigError(ValueError):
    """A model config that is unknown, contradictory or absurd; the message names the key and what to do."""


def integer(name: str, value: object, low: int, high: int) -> int:
    """Return `value` if it is an int within [low, high]; bools and floats are refused."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} must be a whole number, not {_show(value)}")
    if not low <= value <= high:
        raise ConfigError(f"{name} is {_show(value)}, but must lie between {low} and {high}")
    return value


def number(name: str, value: object, low: float, high: float) -> float:
    """Return `value` as a float if it is a finite number within [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name} must be a number, not {_show(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} must be finite, not {value}")
    if not low <= value <= high:
        raise ConfigError(f"{name} is {_show(value)}, but must lie between {low} and {high}")
    return float(value)


def boolean(name: str, value: object) -> bool:
    """Return `value` if it is a bool."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, not {_show(value)}")
    return value


def one_of(name: str, value: object, choices: Collection[str]) -> str:
    """Return `value` if it is one of the named choices."""
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{name} is {_show(value)}; Fathom knows {', '.join(sorted(choices))}")
    return value


def mapping(name: str, value: object) -> Mapping[str, object]:
    """Return `value` if it is a JSON object (string keys)."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{name} must be a JSON object, not {_show(value)}")
    return value


def known_keys(where: str, keys: Collection[str], known: Collection[str]) -> None:
    """Refuse the first key that is not known, naming the nearest known one."""
    for key in keys:
        if key not in known:
            near = get_close_matches(key, sorted(known), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "remove it if it changes nothing in the computation"
            raise ConfigError(f"{where} has the unknown key {_show(key)}; {hint}")


def _show(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a number of over 30 digits"
    return text if len(text) <= 80 else text[:77] + "..."
