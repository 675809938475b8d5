"""`fathom keys`: who may call the server, and how much."""

import argparse
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Literal

from fathom.cli.errors import CommandError
from fathom.cli.terminal import answer, answer_json, note, table
from fathom.costs.prices import PICODOLLARS

DESCRIPTION = (
    "Make, list and revoke API keys, and give them credit. Once one was made, every call needs a key. A running server "
    "sees changes at once."
)
EXAMPLE = "fathom keys create ann --max-concurrent 4 --max-tokens 1000000 --max-usd 2.50"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, to which key, and the limits of a new one."""
    parser.add_argument("action", choices=("create", "list", "revoke", "top-up", "grant"))
    parser.add_argument("name", nargs="?", help="the key's name, as the ledger shows it")
    parser.add_argument("--max-concurrent", type=_count, metavar="N", help="calls at the same time")
    parser.add_argument("--max-tokens", type=_count, metavar="N", help="tokens of prompts and outputs, in all")
    parser.add_argument("--max-usd", type=_picodollars, metavar="USD", help="spend at the ledger's prices, in all")
    parser.add_argument("--usd", type=_picodollars, metavar="USD", help="how much to top up or grant")
    parser.add_argument("--note", default="", metavar="TEXT", help="why, for the books")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    if (arguments.name is None) != (arguments.action == "list"):
        wanted = "takes no name" if arguments.action == "list" else "needs the name of a key"
        raise CommandError(f"fathom keys {arguments.action} {wanted}", code=2)
    limits = (arguments.max_concurrent, arguments.max_tokens, arguments.max_usd)
    if arguments.action != "create" and any(limit is not None for limit in limits):
        raise CommandError("Limits are given when a key is created: revoke it and create another", code=2)
    gives = arguments.action in ("top-up", "grant")
    if gives != (arguments.usd is not None):
        raise CommandError("--usd goes with top-up and grant, which need it: fathom keys top-up ann --usd 5", code=2)
    doing = {"create": _create, "list": _list, "revoke": _revoke, "top-up": _give, "grant": _give}
    doing[arguments.action](arguments)
    return 0


def _create(arguments: argparse.Namespace) -> None:
    from fathom.server.accounts import keys
    from fathom.server.accounts.database import accounts_place, open_database

    key = keys.create(
        open_database(accounts_place()),
        arguments.name,
        max_concurrent=arguments.max_concurrent,
        max_tokens=arguments.max_tokens,
        max_picodollars=arguments.max_usd,
    )
    note("This is the only time that the key is shown: only its hash is kept.")
    if arguments.json:
        answer_json({"name": arguments.name, "key": key})
    else:
        answer(key)


def _list(arguments: argparse.Namespace) -> None:
    from fathom.server.accounts import keys
    from fathom.server.accounts.database import accounts_place, open_database

    found = keys.every(open_database(accounts_place()))
    if arguments.json:
        entries = [{name: getattr(key, name) for name in key.__dataclass_fields__} for key in found]
        answer_json({"keys": entries})
        return
    if not found:
        note("No key was made yet: fathom keys create NAME")
    rows = [
        (
            key.name,
            "revoked" if key.revoked else "live",
            f"{datetime.fromtimestamp(key.created, UTC):%Y-%m-%d}",
            _limit(key.max_concurrent),
            f"{key.spent_tokens:,} of {_limit(key.max_tokens)}",
            f"{key.spent_picodollars / PICODOLLARS:.6f} of {_usd(key.allowed_picodollars)}",
        )
        for key in found
    ]
    for line in table(rows, ("name", "state", "created", "at once", "tokens", "USD")):
        answer(line)


def _give(arguments: argparse.Namespace) -> None:
    from fathom.server.accounts import keys
    from fathom.server.accounts.database import accounts_place, open_database

    kind: Literal["granted", "topped_up"] = "granted" if arguments.action == "grant" else "topped_up"
    database = open_database(accounts_place())
    keys.give_credit(database, arguments.name, kind, arguments.usd, arguments.note)
    key = next(key for key in keys.every(database) if key.name == arguments.name)
    granted, topped_up = key.granted_left / PICODOLLARS, key.topped_up_left / PICODOLLARS
    note(f"{arguments.name} has {granted + topped_up:.6f} USD: {granted:.6f} granted, {topped_up:.6f} topped up")
    if arguments.json:
        answer_json({"name": arguments.name, "granted_usd": granted, "topped_up_usd": topped_up})


def _revoke(arguments: argparse.Namespace) -> None:
    from fathom.server.accounts import keys
    from fathom.server.accounts.database import accounts_place, open_database

    keys.revoke(open_database(accounts_place()), arguments.name)
    note(f"The key {arguments.name!r} is refused from now on")
    if arguments.json:
        answer_json({"revoked": arguments.name})


def _limit(limit: int | None) -> str:
    return "any" if limit is None else f"{limit:,}"


def _usd(picodollars: int | None) -> str:
    return "any" if picodollars is None else f"{picodollars / PICODOLLARS:.2f}"


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _picodollars(text: str) -> int:
    try:
        amount = Decimal(text)
    except InvalidOperation as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount of dollars") from error
    if not (amount.is_finite() and 0 < amount <= 10**6):
        raise argparse.ArgumentTypeError("the limit must be above 0 and at most a million dollars")
    return int(amount * PICODOLLARS)
