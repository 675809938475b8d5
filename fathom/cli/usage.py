"""`fathom usage`: the ledger in sums, and what the same tokens would have cost elsewhere."""

import argparse
import csv
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fathom.cli.terminal import answer, answer_json, note, table

DESCRIPTION = "Show what was asked of this server: calls, tokens, their price, and the same at another's price."
EXAMPLE = "fathom usage --by day,model --days 30 --compare gpt-4-0613"
_TOKENS = ("calls", "hit", "miss", "thought", "output")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How to sum, since when, compared with what, in which form."""
    parser.add_argument("--by", type=_groups, default=("day",), metavar="LIST", help="of day, key, model (default day)")
    parser.add_argument("--days", type=float, metavar="N", help="the last N days only (a day is 24 hours)")
    parser.add_argument(
        "--compare", default="gpt-4-0613", metavar="PLAN", help="price plan to compare with, as it stands today"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as one JSON object")
    form.add_argument("--csv", action="store_true", help="as comma-separated values with a header")


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    from fathom.server.accounts.database import accounts_file, open_database
    from fathom.server.accounts.ledger import usage

    since = 0.0 if arguments.days is None else time.time() - 86_400 * arguments.days
    database = open_database(accounts_file())
    rows = [_priced(row, arguments.compare) for row in usage(database, arguments.by, since)]
    totals = [_priced(row, arguments.compare) for row in usage(database, (), since)]
    columns = (*arguments.by, *_TOKENS, "usd", f"usd_at_{arguments.compare}")
    if arguments.json:
        answer_json({"rows": rows, "total": totals[0] if totals else None})
    elif arguments.csv:
        writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        _print_table(rows, totals, columns)
    return 0


def _priced(row: Mapping[str, Any], plan: str) -> dict[str, Any]:
    """A row of the ledger with dollars in place of picodollars, and those of the other plan."""
    from fathom.costs.prices import PICODOLLARS, rate

    elsewhere = rate(plan, datetime.now(UTC)).cost(row["hit"], row["miss"], row["output"])
    groups = {name: row[name] for name in ("day", "key", "model") if name in row}
    counts = {name: row[name] for name in _TOKENS}
    usd = {"usd": row["picodollars"] / PICODOLLARS, f"usd_at_{plan}": elsewhere / PICODOLLARS}
    return {**groups, **counts, **usd}


def _print_table(rows: list[dict[str, Any]], totals: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    if not totals:
        note("Nothing was asked in this time. `fathom serve` keeps the ledger")
        return
    cells = [tuple(_cell(row.get(name, "total")) for name in columns) for row in (*rows, *totals)]
    for line in table(cells, tuple(columns)):
        answer(line)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6f}"
    return f"{value:,}" if isinstance(value, int) else str(value) or "-"


def _groups(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= {"day", "key", "model"} or len(set(names)) != len(names):
        raise argparse.ArgumentTypeError("take any of day, key and model, with commas between")
    return names
