"""The tables of the app, in one SQLite file of its own under FATHOM_HOME, or wherever FATHOM_DATABASE_URL leads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    make_url,
    text,
)
from sqlalchemy.pool import QueuePool

from fathom.checkpoints.sources import home

TABLES = MetaData()

# Every row says whose it is, and every query asks for that (docs/app.md, "Whose things these are").
CHATS = Table(
    "app_chats",
    TABLES,
    Column("id", String, primary_key=True),
    Column("person", String, nullable=False),
    Column("title", Text, nullable=False, default=""),
    Column("titled", Boolean, nullable=False, default=False),  # by a person or an import: never titled anew
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("pinned", Boolean, nullable=False, default=False),
    Column("folder", Text),
    Column("head", String),
    Column("version", Integer, nullable=False, default=1),
    Column("origin", String),  # where it was imported from, so that a second import adds nothing
    Index("app_chats_of_person", "person", "pinned", "updated"),
    UniqueConstraint("person", "origin"),
)

MESSAGES = Table(
    "app_messages",
    TABLES,
    Column("number", Integer, primary_key=True),  # their order, and the row of the full-text search
    Column("id", String, nullable=False, unique=True),
    Column("person", String, nullable=False),
    Column("chat", String, nullable=False, index=True),
    Column("parent", String),
    Column("role", String, nullable=False),
    Column("created", Float, nullable=False),
    Column("content", Text, nullable=False, default=""),
    Column("thought", Text),
    Column("state", String, nullable=False, index=True),
    Column("owner", String),  # which server's run writes it
    Column("rating", Integer),
    Column("details", JSON, nullable=False, default=dict),  # the other fields of docs/app.md, by name
)

FILES = Table(
    "app_files",
    TABLES,
    Column("id", String, primary_key=True),
    Column("person", String, nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("kind", String, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created", Float, nullable=False),
    Column("chat", String, index=True),  # the one that it was sent in; goes with it
    Column("text", Text, nullable=False),
    Column("sections", JSON, nullable=False),  # [title, first, last]
    Column("truncated", Boolean, nullable=False),
)

SHARES = Table(
    "app_shares",
    TABLES,
    Column("token", String, primary_key=True),
    Column("person", String, nullable=False, index=True),
    Column("chat", String, nullable=False),
    Column("title", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("value", JSON, nullable=False),  # the branch as it was
)

# Prompts of the library and memories.
NOTES = Table(
    "app_notes",
    TABLES,
    Column("id", String, primary_key=True),
    Column("person", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("title", Text),
    Column("text", Text, nullable=False),
    Column("updated", Float, nullable=False),
    Index("app_notes_of_person", "person", "kind"),
)

SETTINGS = Table(
    "app_settings",
    TABLES,
    Column("person", String, primary_key=True),
    Column("value", JSON, nullable=False),
)

USERS = Table(
    "app_users",
    TABLES,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("password", String, nullable=False),  # argon2id, with its parameters and salt
    Column("admin", Boolean, nullable=False),
    Column("created", Float, nullable=False),
    Column("quota", BigInteger),  # tokens in a calendar month (UTC); None: no limit
)

SESSIONS = Table(
    "app_sessions",
    TABLES,
    Column("hash", String, primary_key=True),
    Column("person", String, nullable=False, index=True),
    Column("created", Float, nullable=False),
    Column("seen", Float, nullable=False),
)

FACTS = Table(
    "app_facts",
    TABLES,
    Column("name", String, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

_FULL_TEXT = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS app_history USING fts5(text, tokenize='porter unicode61 remove_diacritics 2')"
)


def app_url() -> str:
    """FATHOM_DATABASE_URL, else a file of this machine."""
    return os.environ.get("FATHOM_DATABASE_URL") or f"sqlite:///{home() / 'app.sqlite3'}"


class Database:
    """One database and its transactions. `url` None: in memory, gone with the process."""

    def __init__(self, url: str | None) -> None:
        self.in_memory = url is None
        if url is None:
            # One connection, used by one thread at a time, is the database.
            self._engine = create_engine(
                "sqlite://",
                poolclass=QueuePool,
                pool_size=1,
                max_overflow=0,
                connect_args={"check_same_thread": False},
            )
        else:
            self._engine = _open(url)
        self.is_sqlite = self._engine.dialect.name == "sqlite"
        if self.is_sqlite:
            event.listen(self._engine, "connect", _configure)
            event.listen(self._engine, "begin", _begin)
        self._writing = self._engine.execution_options(immediate=True)
        with self.write() as connection:
            if self._engine.dialect.name == "postgresql":  # servers that start together must not make them twice
                connection.execute(text("SELECT pg_advisory_xact_lock(7236284)"))
            TABLES.create_all(connection)
            if self.is_sqlite:
                connection.exec_driver_sql(_FULL_TEXT)

    def read(self) -> Connection:
        """A connection to read with, in a `with`."""
        return self._engine.connect()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: whole or not at all."""
        with self._writing.begin() as connection:
            yield connection

    def close(self) -> None:
        """Let go of it."""
        self._engine.dispose()


def _open(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        path = Path(parsed.database)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=True)
    return create_engine(parsed)


def _configure(connection: Any, _: object) -> None:
    # NORMAL: safe when the process is killed; a power cut may take the last moments, never the file.
    connection.isolation_level = None  # sqlite3 would begin its own, lazily: see _begin
    for setting in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {setting}")


def _begin(connection: Connection) -> None:
    # Who reads first and writes later could find that another wrote in between; who says so at once waits instead.
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
