"""The ledger: one row and one transaction for each call, written before the client is told that the call is over.

So what a client saw finished is in the ledger even if the server is killed right after, and what the server itself
broke off by dying is charged to nobody.
"""

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Engine, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from fathom.server.accounts.database import CALLS, KEYS


@dataclass(frozen=True, slots=True)
class Call:
    """One call as it is billed; the fields are the columns of the table of calls."""

    id: str
    at: float
    key: str
    model: str
    reason: str
    hit: int
    miss: int
    thought: int
    output: int
    seconds: float
    plan: str
    picodollars: int


Written = Callable[[SQLAlchemyError | None], None]


class Ledger:
    """Writes calls from a thread of its own, in the order in which they end."""

    def __init__(self, database: Engine, plan: str) -> None:
        self.plan = plan
        self._database = database
        self._waiting: queue.SimpleQueue[tuple[Call, Written] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_all, name="fathom-ledger", daemon=True)
        self._writer.start()

    def record(self, call: Call, written: Written) -> None:
        """Write `call`; `written` is called from the ledger's thread when it is on the disk, or with what failed."""
        self._waiting.put((call, written))

    def close(self) -> None:
        """Write what still waits."""
        self._waiting.put(None)
        self._writer.join()
        self._database.dispose()

    def _write_all(self) -> None:
        while (entry := self._waiting.get()) is not None:
            call, written = entry
            try:
                write(self._database, call)
            except SQLAlchemyError as error:
                written(error)
            else:
                written(None)


def write(database: Engine, call: Call) -> None:
    """One transaction: the row, and the key's sums. A second row with the same id is refused by the database."""
    tokens = call.hit + call.miss + call.output
    with database.begin() as transaction:
        transaction.execute(insert(CALLS).values(**asdict(call)))
        transaction.execute(
            update(KEYS)
            .where(KEYS.c.name == call.key)
            .values(
                spent_tokens=KEYS.c.spent_tokens + tokens,
                spent_picodollars=KEYS.c.spent_picodollars + call.picodollars,
            )
        )


_GROUPS = {"key": CALLS.c.key, "model": CALLS.c.model}
_SUMS = ("hit", "miss", "thought", "output", "seconds", "picodollars")


def usage(database: Engine, groups: tuple[str, ...], since: float = 0.0) -> list[Mapping[str, Any]]:
    """Calls since a time, summed by any of day (UTC), key and model, in that order of columns."""
    by = {**_GROUPS, "day": _day(database)}
    columns = [by[name].label(name) for name in groups]
    sums = [func.sum(CALLS.c[name]).label(name) for name in _SUMS]
    query = select(*columns, func.count().label("calls"), *sums).where(CALLS.c.at >= since)
    with database.connect() as connection:
        rows = connection.execute(query.group_by(*columns).order_by(*columns)).mappings().all()
    return [dict(row) for row in rows if row["calls"]]


def tokens_used(database: Engine, key: str, since: float) -> int:
    """All tokens of the calls of one name since a time."""
    total = func.coalesce(func.sum(CALLS.c.hit + CALLS.c.miss + CALLS.c.output), 0)
    with database.connect() as connection:
        return int(connection.execute(select(total).where(CALLS.c.key == key, CALLS.c.at >= since)).scalar_one())


def busy_seconds(database: Engine, since: float = 0.0) -> float:
    """For how long at least one call was under way: calls at the same time share a machine."""
    query = select(CALLS.c.at, CALLS.c.seconds).where(CALLS.c.at >= since).order_by(CALLS.c.at)
    busy, until = 0.0, 0.0
    with database.connect() as connection:
        for at, seconds in connection.execution_options(yield_per=1000).execute(query):
            busy += max(0.0, at + seconds - max(at, until))
            until = max(until, at + seconds)
    return busy


def _day(database: Engine) -> ColumnElement[str]:
    """The day of a call in UTC, as the database can say it."""
    if database.dialect.name == "postgresql":
        return func.to_char(func.timezone("UTC", func.to_timestamp(CALLS.c.at)), "YYYY-MM-DD")
    return func.strftime("%Y-%m-%d", CALLS.c.at, "unixepoch")


def calls(database: Engine, since: float = 0.0) -> list[Call]:
    """Every call since a time, oldest first."""
    with database.connect() as connection:
        rows = connection.execute(select(CALLS).where(CALLS.c.at >= since).order_by(CALLS.c.at)).mappings().all()
    return [Call(**row) for row in rows]
