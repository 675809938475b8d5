"""Settings and where each of them comes from: flag, then environment, then config file, then default."""

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fathom.cli.errors import CommandError

DEFAULT_MODEL = "smollm2:135m"
Value = str | int | float | list[str] | None


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that can be set: `kind` reads it from text, in the config file it stands under `name`."""

    name: str
    variable: str
    default: Value
    about: str
    kind: Callable[[str], Value] = str
    secret: bool = False


SETTINGS = (
    Setting("model", "FATHOM_MODEL", DEFAULT_MODEL, "the model to serve or to ask"),
    Setting("upstreams", "FATHOM_UPSTREAM", [], "OpenAI-compatible servers to stand in front of", _names),
    Setting("upstream_key", "FATHOM_UPSTREAM_KEY", None, "the key that they want", secret=True),
    Setting("host", "FATHOM_HOST", "127.0.0.1", "address to listen on"),
    Setting("port", "FATHOM_PORT", 8000, "port to listen on; 0 takes a free one", int),
    Setting("api_key", "FATHOM_API_KEY", None, "the key that clients must send", secret=True),
    Setting("allowed_hosts", "FATHOM_ALLOWED_HOSTS", [], "more host names to answer to on the loopback", _names),
    Setting("origins", "FATHOM_ORIGINS", [], "web origins whose pages may call the API", _names),
    Setting("price_plan", "FATHOM_PRICE_PLAN", "deepseek-v4-flash", "the prices that the ledger counts with"),
    Setting("strict", "FATHOM_STRICT", None, "the version of DeepSeek's API whose refusals are enforced"),
    Setting("drain_seconds", "FATHOM_DRAIN_SECONDS", 30.0, "time for running answers after SIGTERM", float),
    Setting("searxng_url", "FATHOM_SEARXNG_URL", None, "an instance of SearXNG that allows format=json"),
    Setting("brave_key", "FATHOM_BRAVE_KEY", None, "a key of Brave's search API", secret=True),
    Setting("tavily_key", "FATHOM_TAVILY_KEY", None, "a key of Tavily's search API", secret=True),
    Setting("bing_key", "FATHOM_BING_KEY", None, "a key of Bing's search API, or of one of its form", secret=True),
    Setting("bing_url", "FATHOM_BING_URL", "https://api.bing.microsoft.com", "where that API is"),
    Setting("keyless", "FATHOM_KEYLESS", [], "engines that need no key, to be used: ddgs", _names),
    Setting("private_origins", "FATHOM_PRIVATE_ORIGINS", [], "sites of the own network that Search may open", _names),
    Setting("documents_for", "FATHOM_DOCUMENTS_FOR", [], "keys and users that may search the own documents", _names),
    Setting("device", "FATHOM_DEVICE", "auto", "cpu, cuda or auto"),
    Setting("dtype", "FATHOM_DTYPE", "auto", "number format of the computation, or auto"),
    Setting("threads", "FATHOM_THREADS", 0, "CPU threads; 0 takes the machine's cores", int),
    Setting("runner", "FATHOM_RUNNER", "auto", "native, torch or auto"),
    Setting("context", "FATHOM_CONTEXT", 0, "most tokens of one conversation; 0 takes what the model knows", int),
    Setting("cache_mib", "FATHOM_CACHE_MIB", 0, "memory for the cache in MiB; 0 takes a share of what is free", int),
    Setting(
        "disk_cache_mib", "FATHOM_DISK_CACHE_MIB", 2048, "disk for prefixes seen before, in MiB; 0 keeps none", int
    ),
    Setting("speculation", "FATHOM_SPECULATION", "auto", "guessing tokens ahead: auto, lookup (no modules) or off"),
    Setting("dialect", "FATHOM_DIALECT", None, "how conversations are written, where the model does not say"),
)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A value and where it was found."""

    setting: Setting
    value: Value
    source: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, resolved."""

    resolved: Mapping[str, Resolved] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.resolved[name].value


def config_path(environment: Mapping[str, str] | None = None) -> Path:
    """`$FATHOM_HOME/config.toml`, else `fathom/config.toml` in the XDG configuration folder."""
    environment = os.environ if environment is None else environment
    if environment.get("FATHOM_HOME"):
        return Path(environment["FATHOM_HOME"]) / "config.toml"
    return Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "fathom" / "config.toml"


def resolve(flags: Mapping[str, object] | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """All settings; `flags` maps names to values given on the command line (None: not given). Raises CommandError."""
    flags = flags or {}
    environment = os.environ if environment is None else environment
    path = config_path(environment)
    from_file = _read(path)
    return Settings({one.name: _resolve_one(one, flags, environment, path, from_file) for one in SETTINGS})


def _resolve_one(
    one: Setting,
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    path: Path,
    from_file: Mapping[str, object],
) -> Resolved:
    if flags.get(one.name) is not None:
        return Resolved(one, _checked(one, flags[one.name], "the flag"), f"flag --{one.name.replace('_', '-')}")
    if environment.get(one.variable):
        return Resolved(one, _checked(one, environment[one.variable], one.variable), f"environment {one.variable}")
    if one.name in from_file:
        return Resolved(one, _checked(one, from_file[one.name], str(path)), f"file {path}")
    return Resolved(one, one.default, "default")


def _checked(one: Setting, value: object, where: str) -> Value:
    """`value` as the setting's kind; texts are read, other values must already be of the kind."""
    wanted: type | tuple[type, ...] = {int: int, float: (int, float), _names: list}.get(one.kind, str)  # type: ignore[assignment]
    try:
        read = one.kind(value) if isinstance(value, str) else value
    except ValueError:
        read = None
    if not isinstance(read, wanted) or isinstance(read, bool):
        raise CommandError(f"{where}: {one.name} is {value!r}, but must be {one.about} ({_kind_name(one)})", code=2)
    return read  # type: ignore[return-value]


def _kind_name(one: Setting) -> str:
    return {int: "a whole number", float: "a number", _names: "a list of names"}.get(one.kind, "text")


def _read(path: Path) -> dict[str, object]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CommandError(f"{path}: cannot be read: {error}. Correct the file or move it away") from error
    known = {one.name for one in SETTINGS}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise CommandError(f"{path}: unknown setting {unknown[0]!r}. Known are: {', '.join(sorted(known))}")
    return values
