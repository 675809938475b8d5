"""The tables of keys, credits and calls: one SQLite file under FATHOM_HOME, or wherever FATHOM_DATABASE_URL leads.

The tables are made and changed by the migrations beside this file (Alembic); a database that is up to date is opened
without them.
"""

import os
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)

from fathom.checkpoints.sources import home

TABLES = MetaData()

LATEST = "0002"  # the last migration
VERSION_TABLE = "accounts_version"

# granted_ and topped_up_: credit given since the key was made; what was granted is spent first.
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
    Column("granted_picodollars", BigInteger, nullable=False, default=0, server_default="0"),
    Column("topped_up_picodollars", BigInteger, nullable=False, default=0, server_default="0"),
)

# One row for each time that credit was given; the sums stand in the table of keys.
CREDITS = Table(
    "credits",
    TABLES,
    Column("id", String, primary_key=True),
    Column("at", Float, nullable=False),
    Column("key", String, nullable=False, index=True),
    Column("kind", String, nullable=False),  # "granted" or "topped_up"
    Column("picodollars", BigInteger, nullable=False),
    Column("note", String, nullable=False, default=""),
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


def accounts_place() -> Path | str:
    """Where keys and ledger lie: FATHOM_DATABASE_URL, else a file of this machine."""
    return os.environ.get("FATHOM_DATABASE_URL") or home() / "accounts.sqlite3"


def open_database(place: Path | str) -> Engine:
    """The database in a file or at a URL, made or brought up to date where it is not.

    A file is readable by its owner only. There a commit is on the disk when it returns (synchronous=FULL), and readers
    do not wait for the writer (WAL).
    """
    url = make_url(f"sqlite:///{place}" if isinstance(place, Path) else place)
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite" and url.database:
        path = Path(url.database)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=True)
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure)
    if _version(engine) != LATEST:
        _upgrade(engine)
    return engine


def _version(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table(VERSION_TABLE):
            return None
        found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return None if found is None else str(found)


def _upgrade(engine: Engine) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    with engine.begin() as connection:
        _lock(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _lock(connection: Connection) -> None:
    """Servers that start together must not migrate together; the lock ends with the transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(7236283)"))
    else:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _configure(connection: Any, _: object) -> None:
    for setting in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {setting}")
