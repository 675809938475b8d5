"""`fathom serve`: the API and the chat page."""

import argparse
import logging
import os
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from fathom.cli.engines import add_model_flags, load_engine, model_flags
from fathom.cli.errors import CommandError
from fathom.cli.searching import search_service
from fathom.cli.settings import Settings, resolve
from fathom.cli.terminal import note

if TYPE_CHECKING:
    from fathom.engine import Engine
    from fathom.server.config import ServerConfig
    from fathom.server.gateway.upstreams import Upstream
    from fathom.server.service import Load, Progress

DESCRIPTION = (
    "Serve the API and the chat page. It listens at once and loads the model meanwhile; /health says how far it is."
)
EXAMPLE = "fathom serve --port 8000"
_SERVER_FLAGS = ("upstreams", "host", "port", "api_key", "allowed_hosts", "origins", "strict", "drain_seconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the address, and who may call."""
    add_model_flags(parser)
    parser.add_argument(
        "--upstream",
        dest="upstreams",
        metavar="URL[;weight=W][;model=NAME],...",
        help="stand in front of OpenAI-compatible servers instead of loading a model (FATHOM_UPSTREAM; their key is "
        "FATHOM_UPSTREAM_KEY)",
    )
    parser.add_argument("--host", help="address to listen on; others than the loopback need a key (FATHOM_HOST)")
    parser.add_argument("--port", type=int, help="port; 0 takes a free one (FATHOM_PORT, default 8000)")
    parser.add_argument(
        "--allow-host", dest="allowed_hosts", action="append", metavar="NAME", help="a further Host name"
    )
    parser.add_argument(
        "--allow-origin", dest="origins", action="append", metavar="ORIGIN", help="a web origin that may call"
    )
    parser.add_argument("--allow-public", action="store_true", help="listen beyond the loopback without a key")
    parser.add_argument(
        "--strict", metavar="VERSION", help="refuse what this version of DeepSeek's API refused, such as deepseek-v3.2"
    )
    parser.add_argument("--drain-seconds", type=float, metavar="S", help="time for running answers after SIGTERM")
    parser.add_argument("--quiet", action="store_true", help="do not log requests")
    parser.set_defaults(api_key=None)


def run(arguments: argparse.Namespace) -> int:
    """Listen, load, answer until told to stop."""
    flags = {name: getattr(arguments, name) for name in _SERVER_FLAGS}
    settings = resolve({**model_flags(arguments), **flags})
    config = server_config(settings, allow_public=arguments.allow_public)
    _log_to_stderr(quiet=arguments.quiet)
    from fathom.server.listen import bind, serve
    from fathom.server.service import Service

    try:
        listener = bind(config.host, config.port)
    except OSError as error:
        raise CommandError(
            f"Cannot listen on {config.host}:{config.port}: {error.strerror}. Is a server running there already? "
            "Stop it, or take another port with --port"
        ) from error
    from fathom.app.api import mount_api
    from fathom.app.routes import mount
    from fathom.server.accounts.accounts import Accounts
    from fathom.server.accounts.database import accounts_place
    from fathom.server.api import create_app

    accounts = Accounts(accounts_place(), settings["price_plan"])
    load, name = _loading(settings)
    service = Service(load, name, accounts, search_service(settings))
    app = create_app(service, config)
    mount(app)
    mount_api(app)
    _announce(config, listener.getsockname()[1], settings, has_keys=accounts.need_key())
    serve(app, service, config, listener)
    note("stopped")
    if service.still_loading:
        # The interpreter's end would unwind that thread out of native code, and the process would abort.
        os._exit(0)
    return 0


def server_config(settings: Settings, *, allow_public: bool) -> "ServerConfig":
    """The server's part of the settings. Raises CommandError for an open door."""
    from fathom.app.api import OWN_LOGIN_PATHS, UPLOAD_PATHS
    from fathom.server.config import ServerConfig

    strict = settings["strict"]
    if strict is not None:
        from fathom.server.deepseek.rules import RULES

        if strict not in RULES:
            raise CommandError(f"--strict knows no {strict!r}; it knows {', '.join(RULES)}", code=2)
    config = ServerConfig(
        host=settings["host"],
        port=settings["port"],
        api_key=settings["api_key"] or None,
        allowed_hosts=frozenset(name.lower() for name in settings["allowed_hosts"]),
        allowed_origins=tuple(settings["origins"]),
        drain_seconds=settings["drain_seconds"],
        strict=strict,
        public_paths=frozenset({"/health", "/", "/static/*", "/worker.js", "/share/*", "/favicon.ico"}),
        own_login_paths=OWN_LOGIN_PATHS,
        upload_paths=UPLOAD_PATHS,
    )
    if config.on_loopback or config.api_key is not None or allow_public or _has_keys():
        return config
    if _has_users():
        return replace(config, require_key=True)  # the page asks for a login; the API is for those who have a key
    raise CommandError(
        f"Listening on {config.host} would let everybody on the network use this machine. Set FATHOM_API_KEY to a "
        "long secret, make keys with `fathom keys create NAME`, users with `fathom users add NAME`, "
        "or say --allow-public if that is what you want",
        code=2,
    )


def _has_keys() -> bool:
    from fathom.server.accounts import keys
    from fathom.server.accounts.database import accounts_place, open_database

    return keys.any_made(open_database(accounts_place()))


def _has_users() -> bool:
    from fathom.app.database import Database, app_url
    from fathom.app.users import Users

    return Users(Database(app_url())).exist()


def _loading(settings: Settings) -> "tuple[Load, str]":
    """What makes the engine, and the model's name until it is there."""
    if not settings["upstreams"]:
        return partial(_load, settings), settings["model"]
    from fathom.server.gateway.upstreams import parse

    try:
        upstreams = [parse(text) for text in settings["upstreams"]]
    except ValueError as error:
        raise CommandError(f"--upstream: {error}", code=2) from error
    return partial(_connect, upstreams, settings["upstream_key"]), "upstream"


def _connect(upstreams: "list[Upstream]", key: str | None, _: "Progress") -> "Engine":
    from fathom.server.gateway.engine import UpstreamEngine

    engine = UpstreamEngine(upstreams, key=key)
    for name, state in engine.stats().policy.items():
        note(f"  {name}  {state}")
    note("ready")
    return engine


def _load(settings: Settings, progress: "Progress") -> "Engine":
    engine = load_engine(settings, progress)
    note(f"  model    {engine.model_name}, {engine.max_tokens:,} tokens of context")
    for name, chosen in engine.stats().policy.items():
        note(f"  {name:<8} {chosen}")
    note("ready")
    return engine


def _announce(config: "ServerConfig", port: int, settings: Settings, *, has_keys: bool) -> None:
    host = f"[{config.host}]" if ":" in config.host else config.host
    shown = "127.0.0.1" if config.host == "0.0.0.0" else host
    if config.api_key is not None:
        key = "required (FATHOM_API_KEY" + (" or one of `fathom keys list`)" if has_keys else ")")
    elif has_keys:
        key = "required (`fathom keys list`)"
    elif config.require_key:
        key = "required (`fathom keys create NAME` makes one); the page asks for a login"
    elif config.on_loopback:
        key = "none: only this machine can connect"
    else:
        key = "NONE: everybody on the network can use this server"
    note(f"Fathom listens on http://{shown}:{port}")
    note(f"  API      http://{shown}:{port}/v1")
    note(f"  key      {key}")
    note(
        "  in front of " + ", ".join(settings["upstreams"])
        if settings["upstreams"]
        else f"  loading  {settings['model']}"
    )


def _log_to_stderr(*, quiet: bool) -> None:
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("fathom").setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("fathom.engine").setLevel(logging.WARNING)  # its choices are printed when it is ready
    if quiet:
        logging.getLogger("fathom.server").setLevel(logging.WARNING)
