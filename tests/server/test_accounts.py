"""Keys, limits and the ledger: what a call costs is written once, whatever becomes of the client or the server."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import anthropic
import httpx
import openai
import pytest
from sqlalchemy.exc import IntegrityError

from fathom.server.accounts import keys
from fathom.server.accounts.accounts import Accounts
from fathom.server.accounts.database import open_database
from fathom.server.accounts.ledger import Call, calls, usage, write
from fathom.text import Answer

HELLO = [{"role": "user", "content": "hello there"}]
CHAT = {"model": "deepseek-chat", "messages": HELLO}
PLAN = "gpt-4-0613"  # 30 and 60 dollars per million: 30e6 and 60e6 picodollars a token


@pytest.fixture
def path(tmp_path):
    return tmp_path / "accounts.sqlite3"


@pytest.fixture
def database(path):
    engine = open_database(path)
    yield engine
    engine.dispose()


@pytest.fixture
def metered(start, path):
    return start(accounts=Accounts(path, PLAN))


def eventually(condition, seconds=3.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_a_call_is_a_row_before_the_client_is_told(metered, database):
    assert metered.chat(model="deepseek-reasoner").status_code == 200
    (row,) = calls(database)
    assert (row.key, row.model, row.reason, row.plan) == ("", "deepseek-reasoner", "stop", PLAN)
    assert (row.hit, row.miss, row.thought, row.output) == (0, 11, 2, 4)
    assert row.picodollars == 11 * 30_000_000 + 4 * 60_000_000


def test_choices_are_one_row_that_says_what_the_client_was_told(metered, database):
    told = metered.chat(n=3).json()["usage"]
    (row,) = calls(database)
    assert (row.hit + row.miss, row.output) == (told["prompt_tokens"], told["completion_tokens"]) == (11, 6)


def test_other_dialects_are_metered_too(metered, database):
    with metered.client() as client:
        client.post("/anthropic/v1/messages", json={**CHAT, "max_tokens": 9})
        client.post("/completions", json={"model": "deepseek-chat", "prompt": "one two"})
    assert sorted(row.miss for row in calls(database)) == [7, 11]


def test_rows_sum_to_what_the_engine_did_though_clients_leave(metered, database):
    """Forty calls, every second of which is left in the middle."""
    finished = []
    submit = metered.engine.submit
    lock = threading.Lock()

    def recorded(request, on_event):
        def both(event):
            if hasattr(event, "usage"):
                with lock:
                    finished.append(event)
            on_event(event)

        return submit(request, both)

    metered.engine.submit = recorded
    metered.engine.script = lambda request: [Answer("x ")] * 20
    metered.engine.pause = 0.002

    def ask(number):
        with (
            metered.client() as client,
            client.stream("POST", "/chat/completions", json={**CHAT, "stream": True}) as got,
        ):
            lines = got.iter_lines()
            next(lines)
            if number % 2:
                list(lines)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(ask, range(40)))
    eventually(lambda: len(calls(database)) == 40)
    rows = calls(database)
    assert len(finished) == len({row.id for row in rows}) == 40
    assert {row.reason for row in rows} == {"stop", "cancelled"}
    assert sum(row.output for row in rows) == sum(event.usage.completion_tokens for event in finished)
    assert sum(row.hit + row.miss for row in rows) == sum(event.usage.prompt_tokens for event in finished)


def test_what_the_engine_refuses_is_no_row_and_holds_no_place(start, path, database):
    from fathom.engine.errors import QueueFull

    key = keys.create(database, "one", max_concurrent=1)
    served = start(accounts=Accounts(path, PLAN))
    with served.client(headers={"x-api-key": key}) as client:
        served.engine.refuse = QueueFull("full")
        assert client.post("/chat/completions", json=CHAT).status_code == 503
        served.engine.refuse = None
        assert client.post("/chat/completions", json=CHAT).status_code == 200
    assert len(calls(database)) == 1


def test_a_row_that_cannot_be_written_is_an_error_not_a_gift(metered, path):
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE calls")
    assert metered.chat().status_code == 500


def test_the_same_call_cannot_be_written_twice(database):
    call = Call("a", 1.0, "", "m", "stop", 1, 2, 0, 3, 0.5, PLAN, 7)
    write(database, call)
    with pytest.raises(IntegrityError):
        write(database, call)
    assert calls(database) == [call]


def test_usage_by_day_key_and_model(database):
    call = Call("a", 0.0, "ann", "m", "stop", 1, 2, 1, 3, 0.5, PLAN, 7)
    for number, at in enumerate((0.0, 86_399.0, 86_400.0)):
        write(database, replace(call, id=str(number), at=at))
    assert [(row["day"], row["calls"], row["picodollars"]) for row in usage(database, ("day",))] == [
        ("1970-01-01", 2, 14),
        ("1970-01-02", 1, 7),
    ]
    (row,) = usage(database, ("key", "model"), since=1.0)
    assert (row["key"], row["model"], row["hit"], row["miss"], row["output"]) == ("ann", "m", 2, 4, 6)
    assert usage(database, (), since=1e9) == []


def test_only_hashes_are_kept(database, path):
    key = keys.create(database, "ann")
    assert keys.find(database, key).name == "ann"
    assert keys.find(database, key[:-1]) is None
    assert path.stat().st_mode & 0o077 == 0
    with sqlite3.connect(path) as connection:
        assert key[3:] not in str(connection.execute("SELECT * FROM keys").fetchall())
    with pytest.raises(keys.KeyNameError, match="already"):
        keys.create(database, "ann")


def test_keys_open_the_door_until_revoked(metered, database):
    assert metered.chat().status_code == 200  # no key was ever made
    key = keys.create(database, "ann")
    assert metered.chat().status_code == 401
    with openai.OpenAI(base_url=metered.url, api_key=key, max_retries=0) as client:
        client.chat.completions.create(**CHAT)
        assert calls(database)[-1].key == "ann"
        keys.revoke(database, "ann")
        with pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(**CHAT)
    assert metered.chat().status_code == 401  # revoking the last one does not open it again
    with pytest.raises(keys.KeyNameError):
        keys.revoke(database, "ann")


def test_the_servers_own_key_keeps_working(start, path, database):
    keys.create(database, "ann")
    served = start(accounts=Accounts(path, PLAN), api_key="sk-the-servers-own")
    with served.client(headers={"authorization": "Bearer sk-the-servers-own"}) as client:
        assert client.post("/chat/completions", json=CHAT).status_code == 200


def test_limits_of_a_key(start, path, database):
    served = start(accounts=Accounts(path, PLAN))
    spender = keys.create(database, "spender", max_picodollars=450_000_000)  # one call costs exactly this
    with openai.OpenAI(base_url=served.url, api_key=spender, max_retries=0) as client:
        assert (
            client.get("/user/balance", cast_to=httpx.Response).json()["balance_infos"][0]["total_balance"]
            == "0.000450"
        )
        client.chat.completions.create(**CHAT)
        with pytest.raises(openai.APIStatusError, match="Insufficient Balance") as refused:
            client.chat.completions.create(**CHAT)
        assert refused.value.status_code == 402
        assert client.get("/user/balance", cast_to=httpx.Response).json()["is_available"] is False
    reader = keys.create(database, "reader", max_tokens=13)
    with anthropic.Anthropic(base_url=f"{served.url}/anthropic", api_key=reader, max_retries=0) as other:
        other.messages.create(**CHAT, max_tokens=9)
        with pytest.raises(anthropic.RateLimitError, match="13 tokens"):
            other.messages.create(**CHAT, max_tokens=9)
    one = keys.create(database, "one", max_concurrent=1)
    served.engine.hold.clear()
    with served.client(headers={"x-api-key": one}) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/chat/completions", json=CHAT)
        eventually(lambda: served.service.active)
        refused = client.post("/chat/completions", json=CHAT)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        served.engine.hold.set()
        assert first.result(5).status_code == 200
        assert client.post("/chat/completions", json=CHAT).status_code == 200


def test_a_killed_server_has_written_what_its_clients_saw(free_port, smollm2_gguf, tmp_path):
    """`kill -9` in the middle of one answer and right after the end of another."""
    port = free_port()
    command = [sys.executable, "-m", "fathom.cli.main", "serve", "--port", str(port), "--quiet"]
    environment = {**os.environ, "FATHOM_HOME": str(tmp_path / "home")}
    endless = {**CHAT, "stream": True, "ignore_eos": True}
    with (
        subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client,
    ):
        try:
            eventually(lambda: _answers(client), seconds=30)
            with client.stream("POST", "/chat/completions", json=endless) as running:
                lines = running.iter_lines()  # dropping it would hang up
                next(lines)
                told = client.post("/chat/completions", json={**CHAT, "max_tokens": 3}).json()["usage"]
                server.send_signal(signal.SIGKILL)
        finally:
            server.kill()
    (row,) = calls(open_database(tmp_path / "home" / "accounts.sqlite3"))
    assert (row.hit, row.miss) == (told["prompt_cache_hit_tokens"], told["prompt_cache_miss_tokens"])
    assert row.output == told["completion_tokens"]


def _answers(client):
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False
