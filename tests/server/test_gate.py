"""What stands before every route: hosts, origins, keys, sizes, bodies; and what comes back with every response."""

import contextlib
import json
import logging
import socket
import time

import httpx
import pytest

from fathom.server import listen
from fathom.server.bodies import parse_object
from fathom.server.errors import ApiError

CHAT = {"model": "scripted:1b", "messages": [{"role": "user", "content": "secret words"}]}


def test_every_response_names_its_request_and_keeps_browsers_in_check(served):
    with served.client() as client:
        for path in ("/health", "/nowhere", "/models"):
            headers = client.get(path).headers
            assert headers["x-request-id"].startswith("req_")
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "localhost@evil.example"])
def test_foreign_hosts_are_refused_on_the_loopback(served, host):
    with served.client() as client:
        response = client.get("/health", headers={"Host": host})
    assert response.status_code == 403
    assert "--allow-host" in response.json()["error"]["message"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1234", "[::1]:8000", "LOCALHOST:99", "my.box:8000"])
def test_own_hosts_are_served(start, host):
    served = start(allowed_hosts=frozenset({"my.box"}))
    with served.client() as client:
        assert client.get("/health", headers={"Host": host}).status_code == 200


def test_pages_from_elsewhere_may_not_call(served):
    with served.client() as client:
        for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
            refused = client.post("/chat/completions", json=CHAT, headers={"Origin": origin})
            assert refused.status_code == 403
        assert client.post("/chat/completions", json=CHAT, headers={"Origin": served.url}).status_code == 200
    assert len(served.engine.tickets) == 1


def test_an_allowed_origin_gets_its_cors_headers(start):
    served = start(allowed_origins=("https://app.example",))
    ask = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    with served.client() as client:
        preflight = client.options("/chat/completions", headers=ask)
        assert preflight.status_code == 200
        response = client.post("/chat/completions", json=CHAT, headers={"Origin": "https://app.example"})
    assert response.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-credentials" not in response.headers


def test_the_key_guards_every_route_but_health(start):
    served = start(api_key="sk-correct-horse-battery")
    with served.client() as client:
        for method, path in [
            ("GET", "/models"),
            ("GET", "/metrics"),
            ("GET", "/openapi.json"),
            ("GET", "/nowhere"),
            ("POST", "/v1/chat/completions"),
            ("POST", "/completions"),
            ("GET", "/health/"),
            ("GET", "//health"),
        ]:
            response = client.request(method, path)
            assert response.status_code == 401, path
            assert response.json()["error"]["type"] == "authentication_error"
        assert client.get("/health").status_code == 200
        for headers in (
            {"Authorization": "Bearer sk-correct-horse-battery"},
            {"x-api-key": "sk-correct-horse-battery"},
        ):
            assert client.get("/models", headers=headers).status_code == 200
        wrong = client.get("/models", headers={"Authorization": "Bearer sk-correct-horse-batterz"}).json()["error"][
            "message"
        ]
        assert "terz" in wrong
        assert "sk-correct" not in wrong
        assert client.get("/models", headers={"Authorization": "Basic c2stY29ycmVjdA=="}).status_code == 401


def test_sizes_are_bounded(start):
    served = start(max_body_bytes=2000, max_header_bytes=4096)
    big = {**CHAT, "user": "x" * 3000}

    def pieces():
        for _ in range(40):
            yield b" " * 100

    with served.client() as client:
        assert client.post("/chat/completions", json=big).status_code == 413
        json_type = {"Content-Type": "application/json"}
        assert client.post("/chat/completions", content=pieces(), headers=json_type).status_code == 413
        assert client.get("/health", headers={"X-Long": "x" * 5000}).status_code == 431
        with contextlib.suppress(httpx.TransportError):
            assert client.get("/health", headers={"X-Long": "x" * 10_000_000}).status_code in (400, 431)
        assert client.get("/health").status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for(start):
    served = start(body_seconds=0.2)
    with socket.create_connection(("127.0.0.1", served.config.port)) as slow:
        head = "Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
        slow.sendall(f"POST /chat/completions HTTP/1.1\r\n{head}{{".encode())
        slow.settimeout(5)
        assert b" 408 " in slow.recv(200)


@pytest.mark.parametrize("first_request", [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_headers_that_do_not_come_are_not_waited_for(start, monkeypatch, first_request):
    monkeypatch.setattr(listen, "HEADER_SECONDS", 0.3)
    served = start()
    with socket.create_connection(("127.0.0.1", served.config.port)) as slow:
        slow.settimeout(5)
        if first_request:
            slow.sendall(first_request)
            answer = b""
            while not answer.endswith(b"}"):
                answer += slow.recv(4000)
            time.sleep(0.5)  # idle between two requests: the connection stays
        slow.sendall(b"GET /health HTTP/1.1\r\nHo")
        assert slow.recv(100) == b""


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"{", "not valid JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "not valid JSON"),
        (b'{"a": "\\u0000"}', "NUL"),
        (b'{"a": "\\ud83d"}', "surrogate"),
        (b'{"a": ["b", {"\\udc00": 1}]}', "surrogate"),
        (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "deeper than 64"),
        (b'{"a": ' + b"[" * 200_000, "deeper than 64"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_bodies_that_are_refused(body, says):
    with pytest.raises(ApiError, match=says) as refused:
        parse_object(body, 64)
    assert refused.value.status == 400


def test_bodies_that_are_taken():
    deep = b'{"a": ' + b"[" * 62 + b"]" * 62 + b"}"
    assert list(parse_object(deep, 64)) == ["a"]
    assert parse_object('{"a": "\\ud83d\\ude00 é 😀"}'.encode(), 64) == {"a": "😀 é 😀"}


def test_a_body_must_be_declared_as_json(served):
    with served.client() as client:
        response = client.post("/chat/completions", content=json.dumps(CHAT), headers={"Content-Type": "text/plain"})
    assert response.status_code == 415
    assert "Content-Type: application/json" in response.json()["error"]["message"]


def test_unknown_paths_and_methods_answer_in_the_dialect(served):
    with served.client() as client:
        missing, wrong = client.get("/v1/nothing"), client.get("/chat/completions")
    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert "POST" in wrong.json()["error"]["message"]
    assert missing.json()["error"]["type"] == "not_found_error"


def test_a_bug_shows_an_id_and_no_traceback(served, caplog):
    def broken(*_, **__):
        raise ZeroDivisionError("hidden detail")

    served.engine.template.render = broken
    response = served.chat()
    assert response.status_code == 500
    message = response.json()["error"]["message"]
    assert response.headers["x-request-id"] in message
    assert "hidden detail" not in response.text
    assert "hidden detail" in caplog.text


def test_the_log_has_ids_and_no_prompts(served, caplog):
    caplog.set_level(logging.DEBUG)
    with served.client() as client:
        request_id = client.post("/chat/completions", json=CHAT).headers["x-request-id"]
    assert request_id in caplog.text
    assert "secret words" not in caplog.text
