"""The accounts in SQLite and in PostgreSQL, made anew and brought up to date."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from fathom.server.accounts import keys
from fathom.server.accounts.accounts import CALLER, Accounts
from fathom.server.accounts.database import LATEST, TABLES, VERSION_TABLE, open_database
from fathom.server.accounts.ledger import Call, busy_seconds, calls, usage, write
from fathom.server.errors import ApiError


def postgres_programs():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if found:
        return found[-1]
    initdb = shutil.which("initdb")
    return Path(initdb).parent if initdb else None


@pytest.fixture(scope="module")
def postgres(tmp_path_factory, free_port):
    """The URL of a PostgreSQL server on the loopback with a folder of its own."""
    pytest.importorskip("psycopg")
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (apt install postgresql)")
    folder = Path(tmp_path_factory.mktemp("postgres"))
    options = {"capture_output": True, "check": True}
    if os.geteuid() == 0:  # it refuses to run as root
        try:
            shutil.chown(folder, "postgres")
        except LookupError:
            pytest.skip("there is no user postgres to run it as")
        for parent in folder.parents[:3]:
            parent.chmod(0o755)
        options["user"] = "postgres"
    port = free_port()
    data = str(folder / "data")
    subprocess.run([programs / "initdb", "-D", data, "-U", "fathom", "-A", "trust", "--no-sync"], **options)
    flags = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    log = str(folder / "log")
    subprocess.run([programs / "pg_ctl", "-D", data, "-l", log, "-w", "-o", flags, "start"], **options)
    yield f"postgresql://fathom@127.0.0.1:{port}/postgres"
    subprocess.run([programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **options)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def place(request, tmp_path):
    return tmp_path / "accounts.sqlite3" if request.param == "sqlite" else request.getfixturevalue("postgres")


def call(id, at, key="ann", seconds=2.0, cost=10):
    return Call(id, at, key, "m", "stop", 64, 36, 5, 50, seconds, "deepseek-v4-flash", cost)


def test_everything_works_in_every_database(place):
    accounts = Accounts(place, "deepseek-v4-flash")
    database = open_database(place)
    secret = keys.create(database, "ann", max_picodollars=15)
    assert accounts.find(secret).name == "ann"
    day = 86_400.0
    for id, at in (("1", day + 10), ("2", day + 11), ("3", 2 * day + 5)):
        write(database, call(id, at))
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        write(database, call("1", 0.0))
    assert [(row["day"], row["calls"]) for row in usage(database, ("day",))] == [("1970-01-02", 2), ("1970-01-03", 1)]
    assert usage(database, ("key",), 2 * day)[0]["output"] == 50
    assert busy_seconds(database) == pytest.approx(5.0)
    assert [one.id for one in calls(database)] == ["1", "2", "3"]
    token = CALLER.set(accounts.find(secret))
    with pytest.raises(ApiError, match="top-up"):
        accounts.open_meter("m", 1)
    assert not accounts.balance()["is_available"]
    keys.give_credit(database, "ann", "topped_up", 20_000_000, "")
    keys.give_credit(database, "ann", "granted", 17_000_000, "")
    CALLER.set(accounts.find(secret))
    assert accounts.balance()["balance_infos"] == [
        {
            "currency": "USD",
            "total_balance": "0.000037",
            "granted_balance": "0.000017",
            "topped_up_balance": "0.000020",
        }
    ]
    write(database, call("4", 3 * day, cost=20_000_000))  # what was granted goes first
    CALLER.set(accounts.find(secret))
    (info,) = accounts.balance()["balance_infos"]
    assert (info["granted_balance"], info["topped_up_balance"]) == ("0.000000", "0.000017")
    accounts.open_meter("m", 1)
    CALLER.reset(token)
    accounts.close()
    database.dispose()


def test_the_migrations_make_what_the_tables_say(place):
    database = open_database(place)
    with database.connect() as connection:
        found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": False})
        ours = [one for one in compare_metadata(found, TABLES) if "accounts_version" not in str(one)]
        assert connection.execute(sqlalchemy.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar() == LATEST
    assert ours == []
    database.dispose()


OLD = """
CREATE TABLE keys (id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL UNIQUE, hash VARCHAR NOT NULL UNIQUE,
  created FLOAT NOT NULL, revoked FLOAT, max_concurrent INTEGER, max_tokens BIGINT, max_picodollars BIGINT,
  spent_tokens BIGINT NOT NULL, spent_picodollars BIGINT NOT NULL);
CREATE TABLE calls (id VARCHAR PRIMARY KEY, at FLOAT NOT NULL, key VARCHAR NOT NULL, model VARCHAR NOT NULL,
  reason VARCHAR NOT NULL, hit INTEGER NOT NULL, miss INTEGER NOT NULL, thought INTEGER NOT NULL,
  output INTEGER NOT NULL, seconds FLOAT NOT NULL, plan VARCHAR NOT NULL, picodollars BIGINT NOT NULL);
INSERT INTO keys VALUES ('a', 'ann', 'h', 1.0, NULL, NULL, NULL, 50, 7, 9);
"""


def test_a_database_from_before_there_were_migrations(tmp_path):
    file = tmp_path / "accounts.sqlite3"
    with sqlite3.connect(file) as old:
        old.executescript(OLD)
    database = open_database(file)
    (ann,) = keys.every(database)
    assert (ann.spent_picodollars, ann.granted_left, ann.topped_up_left) == (9, 41, 0)
    database.dispose()


def test_a_database_that_is_up_to_date_opens_without_alembic(tmp_path):
    file = tmp_path / "accounts.sqlite3"
    open_database(file).dispose()
    script = (
        "import sys; from pathlib import Path; from fathom.server.accounts.database import open_database;"
        f"open_database(Path({str(file)!r})); assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
