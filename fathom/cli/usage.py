"""`fathom usage`: the ledger in sums, and what the same tokens would have cost elsewhere."""

import argparse
import csv
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fathom.cli.errors import CommandError
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
    parser.add_argument(
        "--chart", choices=("usd", "output", "calls"), metavar="WHAT", help="bars of usd, output or calls"
    )
    parser.add_argument("--watts", type=float, default=65.0, metavar="W", help="what the machine draws (default 65)")
    parser.add_argument(
        "--usd-per-kwh", type=float, default=0.3, metavar="USD", help="price of electricity (default 0.3)"
    )
    parser.add_argument(
        "--usd-per-hour", type=float, default=0.0, metavar="USD", help="what the machine costs beside it"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every call to a .csv or .parquet file")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as one JSON object")
    form.add_argument("--csv", action="store_true", help="as comma-separated values with a header")


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    from fathom.server.accounts.database import accounts_place, open_database
    from fathom.server.accounts.ledger import busy_seconds, calls, usage

    since = 0.0 if arguments.days is None else time.time() - 86_400 * arguments.days
    database = open_database(accounts_place())
    if arguments.out is not None:
        _export(arguments.out, [asdict(call) for call in calls(database, since)])
    here = _here(busy_seconds(database, since), arguments)
    rows = [_priced(row, arguments.compare) for row in usage(database, arguments.by, since)]
    totals = [_priced(row, arguments.compare) for row in usage(database, (), since)]
    columns = (*arguments.by, *_TOKENS, "usd", f"usd_at_{arguments.compare}")
    if arguments.json:
        answer_json({"rows": rows, "total": totals[0] if totals else None, "here": here})
    elif arguments.csv:
        writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        _print_table(rows, totals, columns)
        if totals:
            note(
                f"here: {here['busy_hours']:.3f} hours of work, {here['usd']:.6f} USD of electricity and machine "
                f"({arguments.watts:g} W at {arguments.usd_per_kwh:g} USD/kWh, {arguments.usd_per_hour:g} USD/h)"
            )
        if arguments.chart:
            _print_chart(rows, arguments.by, arguments.chart)
    return 0


def _here(seconds: float, arguments: argparse.Namespace) -> dict[str, float]:
    """What the same work cost on this machine: its hours with a call under way, electricity and rent."""
    hours = seconds / 3600
    usd = hours * (arguments.watts / 1000 * arguments.usd_per_kwh + arguments.usd_per_hour)
    return {"busy_hours": hours, "usd": usd}


def _export(file: Path, rows: list[dict[str, Any]]) -> None:
    """Every call as a row of a table."""
    if file.suffix == ".parquet":
        try:
            import pyarrow as arrow  # type: ignore[import-untyped]
            import pyarrow.parquet as parquet  # type: ignore[import-untyped]
        except ImportError as error:
            raise CommandError("Parquet needs pyarrow: pip install 'fathom-llm[data]', or write a .csv file") from error
        parquet.write_table(arrow.Table.from_pylist(rows), file)
    elif file.suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as stream:
            from fathom.server.accounts.ledger import Call

            writer = csv.DictWriter(stream, [column.name for column in fields(Call)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    else:
        raise CommandError(f"--out takes a file that ends in .csv or .parquet, not {file.name}", code=2)
    note(f"{len(rows)} calls written to {file}")


def _print_chart(rows: list[dict[str, Any]], groups: tuple[str, ...], what: str) -> None:
    """A bar for each row, the longest as wide as forty characters, to an eighth of one."""
    most = max((row[what] for row in rows), default=0) or 1
    labels = [" ".join(str(row[name]) or "-" for name in groups) for row in rows]
    width = max(map(len, labels), default=0)
    for label, row in zip(labels, rows, strict=True):
        eighths = round(320 * row[what] / most)
        bar = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
        answer(f"{label:<{width}} {bar} {_cell(row[what])}")


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
