"""`fathom config show`: every setting, its value, and where it comes from."""

import argparse

from fathom.cli.settings import Resolved, config_path, resolve
from fathom.cli.terminal import answer, answer_json, note, table

DESCRIPTION = (
    "Show the settings. A flag counts before the environment, that before the config file, that before the default."
)
EXAMPLE = "FATHOM_PORT=9000 fathom config show"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`show` is the only thing to do with settings."""
    parser.add_argument("what", choices=["show"], help="show the settings")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    settings = resolve()
    if arguments.json:
        found = settings.resolved.values()
        answer_json({one.setting.name: {"value": _shown(one), "source": one.source} for one in found})
        return 0
    note(f"config file: {config_path()} (TOML, one line a setting: port = 9000)")
    rows = [(one.setting.name, _text(one), one.source, one.setting.variable) for one in settings.resolved.values()]
    for line in table(rows, ("setting", "value", "from", "environment")):
        answer(line)
    return 0


def _shown(one: Resolved) -> object:
    return "(set)" if one.setting.secret and one.value else one.value


def _text(one: Resolved) -> str:
    shown = _shown(one)
    if isinstance(shown, list):
        shown = ", ".join(shown)
    return "-" if shown in (None, "") else str(shown)
