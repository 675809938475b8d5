"""The app's real routes and a real server around the scripted engine of tests/server."""

import importlib.util
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from argon2 import PasswordHasher

from fathom.app import users
from fathom.app.api import OWN_LOGIN_PATHS, UPLOAD_PATHS, mount_api
from fathom.app.context import Context
from fathom.server.accounts.accounts import Accounts
from fathom.server.api import create_app
from fathom.server.config import ServerConfig
from fathom.server.service import Service


def load_module(path: str) -> Any:
    """A module of the server's tests, by its path below tests/."""
    name = "fathom_tests_" + path.replace("/", "_")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / f"{path}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def _scripted() -> Any:
    return load_module("server/conftest")


class Visitor(httpx.Client):
    """A browser: keeps its cookies, sends the page's token, knows the app's paths."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(base_url=f"{url}/app/api/", timeout=20, trust_env=False, **options)

    def __enter__(self) -> "Visitor":
        super().__enter__()
        self.renew()
        return self

    def renew(self) -> dict[str, Any]:
        session = self.get("session").json()
        if session["csrf"]:
            self.headers["X-Fathom-CSRF"] = session["csrf"]
        return session

    def login(self, name: str, password: str) -> httpx.Response:
        response = self.post("login", json={"name": name, "password": password})
        if response.status_code == 204:
            self.renew()
        return response

    def new_chat(self, **fields: Any) -> str:
        return self.post("chats", json=fields).json()["id"]

    def begin(self, chat: str, **fields: Any) -> dict[str, Any]:
        response = self.post(f"chats/{chat}/answers", json=fields)
        assert response.status_code == 201, response.text
        return response.json()

    def events(self, run: str, after: int = 0) -> Iterator[tuple[int, str, dict[str, Any]]]:
        with self.stream("GET", f"runs/{run}/events", params={"after": after}) as response:
            assert response.status_code == 200, response.read()
            number, kind = 0, ""
            for line in response.iter_lines():
                if line.startswith("id: "):
                    number = int(line[4:])
                elif line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("data: "):
                    yield number, kind, json.loads(line[6:])

    def ask(self, chat: str, content: str = "hello there", **fields: Any) -> dict[str, Any]:
        """Ask and wait for the whole answer; the message as it is stored."""
        run = self.begin(chat, content=content, **fields)["run"]["id"]
        return next(data["message"] for _, kind, data in self.events(run) if kind == "done")

    def messages(self, chat: str) -> list[dict[str, Any]]:
        return self.get(f"chats/{chat}").json()["messages"]


@dataclass
class AppServer:
    """A running app."""

    url: str
    engine: Any
    service: Service
    context: Context
    stop: Callable[[], None]

    def visitor(self, **options: Any) -> Visitor:
        return Visitor(self.url, **options)


@pytest.fixture(autouse=True)
def quick_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same algorithm with little work."""
    monkeypatch.setattr(users, "_hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    users._nobody.cache_clear()


@pytest.fixture
def scripted() -> Any:
    return _scripted()


@pytest.fixture
def start_app(tmp_path: Path) -> Iterator[Callable[..., AppServer]]:
    """Starts apps; each is stopped at the end of the test."""
    started: list[AppServer] = []

    def start(engine: Any = None, *, search: Any = None, load: Any = None, **config: Any) -> AppServer:
        engine = engine or _scripted().ScriptedEngine()
        engine.closed = False
        accounts = Accounts(tmp_path / "accounts.sqlite3", "deepseek-v4-flash")
        service = Service(load or (lambda progress: engine), engine.model_name, accounts, search)
        public = frozenset({"/health", "/", "/share/*"})
        config = {"drain_seconds": 0.1, **config}
        settings = ServerConfig(
            own_login_paths=OWN_LOGIN_PATHS, upload_paths=UPLOAD_PATHS, public_paths=public, **config
        )
        app = create_app(service, settings)
        context = mount_api(app)
        from fathom.server.listen import bind

        listener = bind("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 10
        while not server.started or (service.state == "loading" and load is None):
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.005)

        def stop() -> None:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()

        app_server = AppServer(f"http://127.0.0.1:{listener.getsockname()[1]}", engine, service, context, stop)
        started.append(app_server)
        return app_server

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def served(start_app: Callable[..., AppServer]) -> AppServer:
    return start_app()


@pytest.fixture
def visitor(served: AppServer) -> Iterator[Visitor]:
    with served.visitor() as visitor:
        yield visitor


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> Any:
    """What the condition gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)
    return found


postgres = load_module("server/test_databases").postgres
free_port = load_module("server/conftest").free_port


@pytest.fixture
def until() -> Callable[..., Any]:
    return wait_for
