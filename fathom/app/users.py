"""Accounts of the app: names, passwords (argon2id), sessions. Without any, the app has one person and no login."""

import hashlib
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from fathom.app.database import CHATS, FACTS, FILES, MESSAGES, NOTES, SESSIONS, SETTINGS, SHARES, USERS, Database
from fathom.app.library import Library
from fathom.app.people import OWNER

SESSION_SECONDS = 30 * 86400.0  # since it was last used
MIN_PASSWORD = 8
MAX_PASSWORD = 1024
_SEEN_EVERY = 3600.0
_LOGIN_NEEDED = "login_needed"
_hasher = PasswordHasher()  # RFC 9106's second recommendation: 64 MiB, three passes
_hashing = threading.BoundedSemaphore(2)  # so that a crowd at the door cannot take all the memory


class UserError(ValueError):
    """A name or password that cannot be; the message says what to do."""


@dataclass(frozen=True, slots=True)
class User:
    """Who may log in; the password is not here. `quota`: tokens in a calendar month, None: no limit."""

    id: str
    name: str
    admin: bool
    created: float
    quota: int | None


_COLUMNS = [USERS.c[name] for name in User.__dataclass_fields__]


class Users:
    """The users and their sessions. Blocking: call it from threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def exist(self) -> bool:
        """Whether somebody must log in: from the first user on, also after the last was removed."""
        with self._database.read() as connection:
            return connection.execute(select(FACTS.c.name).where(FACTS.c.name == _LOGIN_NEEDED)).first() is not None

    def every(self) -> list[User]:
        """All users by name."""
        with self._database.read() as connection:
            return [User(**row) for row in connection.execute(select(*_COLUMNS).order_by(USERS.c.name)).mappings()]

    def get(self, identity: str) -> User | None:
        """One by id."""
        with self._database.read() as connection:
            return _user(connection, USERS.c.id == identity)

    def named(self, name: str) -> User:
        """One by name. Raises UserError."""
        with self._database.read() as connection:
            user = _user(connection, USERS.c.name == _folded(name))
        if user is None:
            raise UserError(f"There is no user {name!r}: `fathom users list` shows them")
        return user

    def add(self, name: str, password: str, *, admin: bool = False, quota: int | None = None) -> User:
        """A new user. The first one is an administrator and gets the chats that were made without a login.

        Raises UserError for a name that is taken or no name, and for a password that is too short.
        """
        name = _checked_name(name)
        hashed = _hash(password)
        user = {"id": secrets.token_hex(16), "name": name, "created": time.time(), "quota": quota}
        with self._database.write() as connection:
            first = connection.execute(select(USERS.c.id).limit(1)).first() is None
            try:
                connection.execute(insert(USERS).values(**user, password=hashed, admin=admin or first))
            except IntegrityError as error:
                raise UserError(f"There is a user {name!r} already: take another name") from error
            if connection.execute(select(FACTS.c.name).where(FACTS.c.name == _LOGIN_NEEDED)).first() is None:
                connection.execute(insert(FACTS).values(name=_LOGIN_NEEDED, value=b"1"))
                for table in (CHATS, MESSAGES, FILES, SHARES, NOTES, SETTINGS):
                    connection.execute(update(table).where(table.c.person == OWNER).values(person=user["id"]))
        return self.named(name)

    def change(self, identity: str, values: Mapping[str, Any]) -> None:
        """Set admin or quota. Raises UserError when nobody would administrate any more."""
        with self._database.write() as connection:
            if values.get("admin") is False:
                _keep_an_administrator(connection, identity)
            connection.execute(update(USERS).where(USERS.c.id == identity).values(**values))

    def set_password(self, identity: str, password: str, *, keep: str = "") -> None:
        """A new password ends all sessions but the one with the hash `keep`. Raises UserError."""
        hashed = _hash(password)
        with self._database.write() as connection:
            connection.execute(update(USERS).where(USERS.c.id == identity).values(password=hashed))
            others = (SESSIONS.c.person == identity, SESSIONS.c.hash != keep)
            connection.execute(delete(SESSIONS).where(*others))

    def remove(self, identity: str) -> None:
        """Forget a user and everything that is theirs. Raises UserError for the last administrator among others."""
        with self._database.write() as connection:
            if connection.execute(select(func.count()).select_from(USERS)).scalar_one() > 1:
                _keep_an_administrator(connection, identity)
        Library(self._database, identity).delete_all()
        with self._database.write() as connection:
            for table in (NOTES, SETTINGS, SESSIONS):
                connection.execute(delete(table).where(table.c.person == identity))
            connection.execute(delete(USERS).where(USERS.c.id == identity))

    # -- sessions ---------------------------------------------------------------------------------------------------

    def check(self, name: str, password: str) -> User | None:
        """The user with this name and password. It takes as long for a name that nobody has."""
        with self._database.read() as connection:
            row = connection.execute(select(USERS).where(USERS.c.name == _folded(name))).mappings().first()
        if not _fits(row["password"] if row is not None else _nobody(), password) or row is None:
            return None
        return User(**{column.name: row[column.name] for column in _COLUMNS})

    def open_session(self, identity: str) -> str:
        """A new session's token, 256 random bits, of which only the hash is kept."""
        token, now = secrets.token_urlsafe(32), time.time()
        row = {"hash": session_hash(token), "person": identity, "created": now, "seen": now}
        with self._database.write() as connection:
            connection.execute(delete(SESSIONS).where(SESSIONS.c.seen < now - SESSION_SECONDS))
            connection.execute(insert(SESSIONS).values(**row))
        return token

    def of_session(self, token: str) -> User | None:
        """Whose session this is, if it is one."""
        hashed, now = session_hash(token), time.time()
        live = (SESSIONS.c.hash == hashed, SESSIONS.c.seen > now - SESSION_SECONDS, USERS.c.id == SESSIONS.c.person)
        with self._database.read() as connection:
            row = connection.execute(select(*_COLUMNS, SESSIONS.c.seen).where(*live)).mappings().first()
        if row is None:
            return None
        if row["seen"] < now - _SEEN_EVERY:
            with self._database.write() as connection:
                connection.execute(update(SESSIONS).where(SESSIONS.c.hash == hashed).values(seen=now))
        return User(**{column.name: row[column.name] for column in _COLUMNS})

    def close_session(self, token: str) -> None:
        """Log out here."""
        with self._database.write() as connection:
            connection.execute(delete(SESSIONS).where(SESSIONS.c.hash == session_hash(token)))

    def close_sessions(self, identity: str) -> None:
        """Log out everywhere."""
        with self._database.write() as connection:
            connection.execute(delete(SESSIONS).where(SESSIONS.c.person == identity))


def session_hash(token: str) -> str:
    """SHA-256 is enough for 256 random bits: there is nothing to guess."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def secret(database: Database) -> bytes:
    """The secret of this installation, made at first use."""
    with database.write() as connection:
        known = connection.execute(select(FACTS.c.value).where(FACTS.c.name == "secret")).scalar()
        if known is None:
            known = secrets.token_bytes(32)
            connection.execute(insert(FACTS).values(name="secret", value=known))
    return bytes(known)


def _user(connection: Connection, which: Any) -> User | None:
    row = connection.execute(select(*_COLUMNS).where(which)).mappings().first()
    return None if row is None else User(**row)


def _keep_an_administrator(connection: Connection, identity: str) -> None:
    others = (USERS.c.admin, USERS.c.id != identity)
    if connection.execute(select(USERS.c.id).where(*others).limit(1)).first() is None:
        raise UserError("Nobody would be left to administrate: make another user an administrator first")


def _folded(name: str) -> str:
    return name.strip().casefold()


def _checked_name(name: str) -> str:
    name = _folded(name)
    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise UserError("A name has 1 to 64 printable characters")
    return name


def _hash(password: str) -> str:
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise UserError(f"A password has {MIN_PASSWORD} to {MAX_PASSWORD} characters: take a longer one")
    with _hashing:
        return _hasher.hash(password.encode("utf-8", "surrogatepass"))


@cache
def _nobody() -> str:
    return _hasher.hash(secrets.token_hex())


def _fits(hashed: str, password: str) -> bool:
    if len(password) > MAX_PASSWORD:
        return False
    try:
        with _hashing:
            return _hasher.verify(hashed, password.encode("utf-8", "surrogatepass"))
    except (VerificationError, InvalidHashError):
        return False
