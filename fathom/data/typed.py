"""TOML tables as frozen dataclasses: every key typed, unknown keys refused with the nearest known name."""

import difflib
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from fathom.data.errors import RecipeError

Record = TypeVar("Record")


def read_toml(file: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The file's table, after `--set key=value` overrides; raises RecipeError with the place of a mistake."""
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"there is no recipe {file}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{file} is not TOML: {error}") from error
    for override in overrides:
        apply_override(table, override)
    return table


def apply_override(table: dict[str, Any], override: str) -> None:
    """Set one value, such as `fim.rate=0.2` or `sources.wiki.epochs=3`; tables in a list are called by their name."""
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise RecipeError(f"--set takes KEY=VALUE, such as fim.rate=0.2, not {override!r}")
    *parents, last = path.strip().split(".")
    place: Any = table
    for parent in parents:
        place = _step(place, parent, override)
    if not isinstance(place, dict):
        raise RecipeError(f"--set {override}: {'.'.join(parents)} is not a table")
    place[last] = _value_of(text.strip())


def _step(place: Any, key: str, override: str) -> Any:
    if isinstance(place, list):
        found = next((entry for entry in place if isinstance(entry, dict) and entry.get("name") == key), None)
        if found is None:
            raise RecipeError(f"--set {override}: nothing in the list is named {key!r}")
        return found
    if not isinstance(place, dict):
        raise RecipeError(f"--set {override}: {key!r} lies inside a plain value")
    return place.setdefault(key, {})


def _value_of(text: str) -> Any:
    """As TOML reads it; what TOML does not read is taken as a string, so that shells need no double quoting."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def from_table(kind: type[Record], table: Mapping[str, Any], where: str) -> Record:
    """Build the dataclass `kind` from a table; `where` names the table in errors.

    Fields may be str, int, float, bool, Literal, another dataclass, a tuple of any of these, or any of these or None.
    A missing key takes the field's default; raises RecipeError where there is none, and for unknown keys.
    """
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise RecipeError(f"{where}: unknown key {key!r}{nearest(key, known)}")
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, field in known.items():
        if name in table:
            values[name] = _typed(hints[name], table[name], f"{where}.{name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise RecipeError(f"{where}: the key {name!r} is missing")
    try:
        return kind(**values)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error


def nearest(key: str, known: Mapping[str, object] | Sequence[str]) -> str:
    """'; did you mean ...?' with the nearest known name, else the list of all."""
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def _typed(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = next(argument for argument in get_args(hint) if argument is not type(None))
        return _typed(inner, value, where)
    if origin is Literal:
        return _choice(get_args(hint), value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise RecipeError(f"{where} should be a list, not {value!r}")
        inner = get_args(hint)[0]
        return tuple(_typed(inner, entry, f"{where}[{number}]") for number, entry in enumerate(value))
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise RecipeError(f"{where} should be a table, not {value!r}")
        return from_table(hint, value, where)  # type: ignore[arg-type]
    return _plain(hint, value, where)


def _choice(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value not in choices:
        raise RecipeError(f"{where} is {value!r}{nearest(str(value), [str(choice) for choice in choices])}")
    return value


def _plain(hint: Any, value: Any, where: str) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise RecipeError(f"{where} should be {hint.__name__}, not {value!r}")
    return value
