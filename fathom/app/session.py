"""Everything that the page must know first: the body of `GET session`."""

from typing import Any
from urllib.parse import urlsplit

from fathom import __version__
from fathom.app import settings
from fathom.app.asking import MAX_CHARACTERS, MAX_FILES
from fathom.app.context import Context
from fathom.app.people import Person
from fathom.search.files import MAX_FILE_BYTES, can_read_images, readable_suffixes
from fathom.server.config import LOOPBACK_HOSTS
from fathom.server.status import health


def session_json(context: Context, person: Person | None, *, needs_key: bool = False) -> dict[str, Any]:
    """The body of `GET session`. Blocking."""
    service = context.service
    _, state = health(service)
    thinks = state.get("thinks")
    search, accounts = service.search, service.accounts
    model = {"name": state["model"], "state": state["status"], "progress": state.get("progress")}
    body: dict[str, Any] = {
        "user": None,
        "login": person is None and not needs_key,
        "key": needs_key,
        "csrf": None,
        "version": __version__,
        "model": {**model, "error": state.get("error"), "context": state.get("context")},
        "capabilities": {
            "think": thinks,
            "search": search is not None,
            "files": search is not None,
            "ocr": can_read_images(),
            "users": not needs_key and context.users.exist(),
            "temporary": True,
        },
        "limits": {
            "files": MAX_FILES,
            "file_bytes": MAX_FILE_BYTES,
            "message_characters": MAX_CHARACTERS,
            "import_bytes": context.config.max_upload_bytes,
        },
        "files": {"extensions": sorted(readable_suffixes())},
        "settings": None,
        "data": None,
        "prices": None,
    }
    if person is None:
        return body
    places = [] if search is None else search.places()
    mine = {
        "user": {"id": person.id, "name": person.name, "admin": person.admin, "quota": _quota(person)},
        "csrf": context.csrf(person),
        "settings": settings.read(context.database, person.id).model_dump(),
        "data": {"model": _model_place(context), "search": places},
        "prices": {"plan": accounts.ledger.plan, "compare": settings.COMPARED_PLAN} if accounts is not None else None,
    }
    return {**body, **mine}


def _model_place(context: Context) -> dict[str, str | None]:
    """Where questions are answered: on this machine, or by other servers."""
    upstreams = getattr(context.service.engine, "upstreams", ())
    hosts = [urlsplit(upstream.url).hostname or "" for upstream in upstreams]
    away = [host for host in hosts if host not in LOOPBACK_HOSTS]
    return {"where": "web" if away else "machine", "host": ", ".join(dict.fromkeys(away)) or None}


def _quota(person: Person) -> dict[str, int] | None:
    if person.caller is None or person.caller.max_tokens is None:
        return None
    return {"tokens": person.caller.max_tokens, "used": person.caller.spent_tokens}
