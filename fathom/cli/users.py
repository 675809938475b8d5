"""`fathom users`: who may log in to the app."""

import argparse
import getpass
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fathom.cli.errors import CommandError
from fathom.cli.terminal import answer, answer_json, note, table

if TYPE_CHECKING:
    from fathom.app.users import Users

DESCRIPTION = (
    "Make, list and remove the app's users. From the first one on everybody must log in; the first is an administrator "
    "and gets the chats that were made without a login. A running server sees changes at once. The password is asked "
    "for, or read from the standard input."
)
EXAMPLE = "fathom users add anna --quota 1000000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, to whom, and the rights of a new user."""
    parser.add_argument("action", choices=("add", "list", "passwd", "rm"))
    parser.add_argument("name", nargs="?", help="whom it is about")
    parser.add_argument("--admin", action="store_true", help="add: may manage users")
    parser.add_argument("--quota", type=_count, metavar="TOKENS", help="add: tokens in a calendar month")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    if (arguments.name is None) != (arguments.action == "list"):
        wanted = "takes no name" if arguments.action == "list" else "needs the name of a user"
        raise CommandError(f"fathom users {arguments.action} {wanted}", code=2)
    if arguments.action != "add" and (arguments.admin or arguments.quota is not None):
        raise CommandError("--admin and --quota go with add; administrators change them on the page", code=2)
    from fathom.app.database import Database, app_url
    from fathom.app.users import UserError, Users

    database = Database(app_url())
    try:
        {"add": _add, "list": _list, "passwd": _passwd, "rm": _remove}[arguments.action](arguments, Users(database))
    except UserError as error:
        raise CommandError(str(error)) from error
    finally:
        database.close()
    return 0


def _add(arguments: argparse.Namespace, users: "Users") -> None:
    user = users.add(arguments.name, _password(), admin=arguments.admin, quota=arguments.quota)
    note(f"{user.name} may log in" + (" and administrates" if user.admin else ""))
    if arguments.json:
        answer_json({"name": user.name, "admin": user.admin, "quota": user.quota})


def _list(arguments: argparse.Namespace, users: "Users") -> None:
    found = users.every()
    if arguments.json:
        answer_json({"users": [{name: getattr(user, name) for name in user.__dataclass_fields__} for user in found]})
        return
    if not found:
        note("There are no users: fathom users add NAME")
    rows = [
        (
            user.name,
            "administrator" if user.admin else "user",
            f"{datetime.fromtimestamp(user.created, UTC):%Y-%m-%d}",
            "any" if user.quota is None else f"{user.quota:,}",
        )
        for user in found
    ]
    for line in table(rows, ("name", "role", "created", "tokens a month")):
        answer(line)


def _passwd(arguments: argparse.Namespace, users: "Users") -> None:
    user = users.named(arguments.name)
    users.set_password(user.id, _password())
    note(f"{user.name} has a new password and is logged out everywhere")
    if arguments.json:
        answer_json({"name": user.name})


def _remove(arguments: argparse.Namespace, users: "Users") -> None:
    user = users.named(arguments.name)
    users.remove(user.id)
    note(f"{user.name} and everything that was theirs is gone")
    if not users.every():
        note("Nobody can log in now: fathom users add NAME")
    if arguments.json:
        answer_json({"removed": user.name})


def _password() -> str:
    """Typed twice at a terminal, else the first line of the standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    first = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != first:
        raise CommandError("The two passwords differ: try again")
    return first


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
