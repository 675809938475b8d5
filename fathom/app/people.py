"""Whose things these are: the one person of this machine, whoever holds a key, or a user who has logged in."""

import hashlib
import hmac
from dataclasses import dataclass

from fathom.server.accounts.keys import Key

OWNER = "me"


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks.

    Attributes:
        id: names the rows that are this person's.
        name: of the user; None for the one person of this machine.
        admin: may manage users.
        caller: whom the ledger charges and what that one may still use; None: nobody is counted.
        session: what the CSRF token is bound to: the session's hash, or the id.

    """

    id: str
    name: str | None
    admin: bool
    caller: Key | None
    session: str

    @property
    def searcher(self) -> str | None:
        """As whom Search is asked; None may search this machine's own documents."""
        return None if self.admin or self.caller is None else self.caller.name


def csrf_token(secret: bytes, person: Person) -> str:
    """What a page of this person sends with every change, and no other page can know."""
    return hmac.new(secret, f"csrf {person.session}".encode(), hashlib.sha256).hexdigest()
