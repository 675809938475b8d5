"""`fathom serve` as a process that is killed in mid-answer: what was shown is there after the restart."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest


@pytest.fixture
def serve():
    """Starts `fathom serve` on the default model; killed at the end."""
    started = []

    def start(port):
        command = [sys.executable, "-m", "fathom.cli.main", "serve", "--port", str(port), "--quiet"]
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        started.append(server)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}/app/api/", timeout=60, trust_env=False)
        deadline = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline, "the server did not start"
            try:
                session = client.get("session").json()
            except httpx.TransportError:
                time.sleep(0.1)
                continue
            client.headers["X-Fathom-CSRF"] = session["csrf"]
            return server, client

    yield start
    for server in started:
        server.kill()
        server.wait()


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_kill_9_in_mid_answer_loses_at_most_the_last_moments(serve, port, smollm2_gguf):
    server, client = serve(port)
    chat = client.post("chats", json={}).json()["id"]
    settings = {"temperature": 0, "max_tokens": 2000}
    body = {"content": "Write a long story about the sea, with many chapters.", "settings": settings}
    begun = client.post(f"chats/{chat}/answers", json=body).json()
    shown, shown_before, until = "", "", None
    with client.stream("GET", f"runs/{begun['run']['id']}/events") as response:
        kind = ""
        for line in response.iter_lines():
            if line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: ") and kind == "answer":
                if until is None and len(shown) > 40:
                    shown_before, until = shown, time.monotonic() + 1.2
                shown += json.loads(line[6:])["text"]
                if until is not None and time.monotonic() > until:
                    break
            elif kind == "end":
                break
        server.send_signal(signal.SIGKILL)
        server.wait()
    assert until is not None, "the answer was too short to be killed in"
    client.close()

    _, client = serve(port)
    stored = client.get(f"chats/{chat}").json()
    question, answer = stored["messages"]
    assert question["content"] == body["content"]
    assert answer["state"] == "interrupted"
    assert answer["run"] is stored["run"] is None
    # What was shown a second before the end is there, whole and unchanged; nothing that was never shown.
    assert answer["content"].startswith(shown_before)
    assert shown.startswith(answer["content"]) or answer["content"].startswith(shown)
    # The same page still works with the token that it had, and the answer goes on where it stopped.
    again = client.post(
        f"chats/{chat}/answers", json={"continue": answer["id"], "settings": {**settings, "max_tokens": 5}}
    )
    assert again.status_code == 201, again.text
    done = ""
    with client.stream("GET", f"runs/{again.json()['run']['id']}/events") as response:
        for line in response.iter_lines():
            if line.startswith("data: ") and '"message"' in line:
                done = json.loads(line[6:])["message"]["content"]
    assert done.startswith(answer["content"])
    assert len(done) > len(answer["content"])
    client.close()
