"""API keys: made here, shown once, kept only as hashes; each with limits of its own."""

import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from fathom.server.accounts.database import CREDITS, KEYS

_PREFIX = "sk-"


class KeyNameError(ValueError):
    """No key has this name, or one has it already."""


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key; the key itself is not. The fields are columns of the table of keys; None: no limit."""

    id: str
    name: str
    created: float
    revoked: float | None
    max_concurrent: int | None
    max_tokens: int | None
    max_picodollars: int | None
    spent_tokens: int
    spent_picodollars: int
    granted_picodollars: int = 0
    topped_up_picodollars: int = 0

    @property
    def granted_left(self) -> int:
        """What is left of credit that was granted (the limit given at its making is such); it is spent first."""
        return max(0, self._granted - self.spent_picodollars)

    @property
    def topped_up_left(self) -> int:
        """What is left of credit that was paid for."""
        return max(0, self.topped_up_picodollars - max(0, self.spent_picodollars - self._granted))

    @property
    def allowed_picodollars(self) -> int | None:
        """All that it was ever given to spend; None: no limit."""
        given = self.granted_picodollars + self.topped_up_picodollars
        return None if self.max_picodollars is None and not given else (self.max_picodollars or 0) + given

    @property
    def _granted(self) -> int:
        return (self.max_picodollars or 0) + self.granted_picodollars


_COLUMNS = [KEYS.c[name] for name in Key.__dataclass_fields__]


def create(
    database: Engine,
    name: str,
    *,
    max_concurrent: int | None = None,
    max_tokens: int | None = None,
    max_picodollars: int | None = None,
) -> str:
    """A new key, 256 random bits, which nobody can see again. Raises KeyNameError for a name that is taken."""
    key = _PREFIX + secrets.token_urlsafe(32)
    row = {"id": secrets.token_hex(8), "name": name, "hash": _hash(key), "created": time.time()}
    limits = {"max_concurrent": max_concurrent, "max_tokens": max_tokens, "max_picodollars": max_picodollars}
    try:
        with database.begin() as transaction:
            transaction.execute(insert(KEYS).values(**row, **limits))
    except IntegrityError as error:
        raise KeyNameError(f"There is a key {name!r} already: take another name") from error
    return key


def every(database: Engine) -> list[Key]:
    """All keys, revoked ones too, oldest first."""
    with database.connect() as connection:
        rows = connection.execute(select(*_COLUMNS).order_by(KEYS.c.created)).mappings().all()
    return [Key(**row) for row in rows]


def revoke(database: Engine, name: str) -> None:
    """Refuse this key from now on. Raises KeyNameError when no live key has the name."""
    with database.begin() as transaction:
        live = (KEYS.c.name == name) & KEYS.c.revoked.is_(None)
        changed = transaction.execute(update(KEYS).where(live).values(revoked=time.time()))
    if changed.rowcount == 0:
        raise KeyNameError(f"There is no live key {name!r}: `fathom keys list` shows them")


def give_credit(
    database: Engine, name: str, kind: Literal["granted", "topped_up"], picodollars: int, note: str
) -> None:
    """Add to what a key may spend, in one transaction with a row that says so. Raises KeyNameError.

    A key that had no limit of spend has one from then on.
    """
    column = KEYS.c[f"{kind}_picodollars"]
    with database.begin() as transaction:
        live = (KEYS.c.name == name) & KEYS.c.revoked.is_(None)
        changed = transaction.execute(update(KEYS).where(live).values({column: column + picodollars}))
        if changed.rowcount == 0:
            raise KeyNameError(f"There is no live key {name!r}: `fathom keys list` shows them")
        row = {"id": secrets.token_hex(16), "at": time.time(), "key": name, "kind": kind}
        transaction.execute(insert(CREDITS).values(**row, picodollars=picodollars, note=note))


def find(database: Engine, given: str) -> Key | None:
    """The live key that was given, as it stands now.

    The database compares hashes, so the time it takes says nothing about the keys.
    """
    with database.connect() as connection:
        query = select(*_COLUMNS).where(KEYS.c.hash == _hash(given), KEYS.c.revoked.is_(None))
        row = connection.execute(query).mappings().first()
    return None if row is None else Key(**row)


def any_made(database: Engine) -> bool:
    """Whether a key was ever made: then every call needs one, also after the last was revoked."""
    with database.connect() as connection:
        return connection.execute(select(KEYS.c.id).limit(1)).first() is not None


def _hash(key: str) -> str:
    """SHA-256 is enough for 256 random bits: there is nothing to guess."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
