"""The tables of keys and calls, in one SQLite file of its own under FATHOM_HOME."""

from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Column, Engine, Float, Integer, MetaData, String, Table, create_engine, event

from fathom.checkpoints.sources import home

TABLES = MetaData()

# max_*: None is no limit. spent_*: sums over the key's calls, kept in the transaction that records a call.
KEYS = Table(
    "keys",
    TABLES,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("hash", String, nullable=False, unique=True),
    Column("created", Float, nullable=False),
    Column("revoked", Float),
    Column("max_concurrent", Integer),
    Column("max_tokens", BigInteger),
    Column("max_picodollars", BigInteger),
    Column("spent_tokens", BigInteger, nullable=False, default=0),
    Column("spent_picodollars", BigInteger, nullable=False, default=0),
)

# One row for each call that the engine took, whatever became of it. `output` contains `thought`.
CALLS = Table(
    "calls",
    TABLES,
    Column("id", String, primary_key=True),
    Column("at", Float, nullable=False, index=True),  # seconds since 1970, when the engine took it
    Column("key", String, nullable=False, index=True),  # the key's name
    Column("model", String, nullable=False),  # as the client called it
    Column("reason", String, nullable=False),
    Column("hit", Integer, nullable=False),
    Column("miss", Integer, nullable=False),
    Column("thought", Integer, nullable=False),
    Column("output", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("plan", String, nullable=False),
    Column("picodollars", BigInteger, nullable=False),
)


def accounts_file() -> Path:
    """Where keys and ledger lie on this machine."""
    return home() / "accounts.sqlite3"


def open_database(path: Path) -> Engine:
    """The database at `path`, made when it is not there, readable by its owner only.

    A commit is on the disk when it returns (synchronous=FULL); readers do not wait for the writer (WAL).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600, exist_ok=True)
    engine = create_engine(f"sqlite:///{path}")
    event.listen(engine, "connect", _configure)
    TABLES.create_all(engine)
    return engine


def _configure(connection: Any, _: object) -> None:
    for setting in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {setting}")
