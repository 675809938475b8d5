"""`fathom serve` as a process: listening before the model is loaded, and leaving when told."""

import os
import signal
import subprocess
import sys
import time

import httpx
import pytest

CHAT = {"model": "deepseek-chat", "messages": [{"role": "user", "content": "Tell a story."}], "stream": True}


@pytest.fixture
def process(free_port, smollm2_gguf):
    """Starts `fathom serve` on the default model; killed at the end."""
    started = []

    def start(*arguments):
        port = free_port()
        command = [sys.executable, "-m", "fathom.cli.main", "serve", "--port", str(port), *arguments]
        server = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        started.append(server)
        return server, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False)

    yield start
    for server in started:
        server.kill()
        server.wait()
        server.stderr.close()


def get(client, until, path="/health", seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            response = client.get(path)
            if until(response):
                return response
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise AssertionError("the server did not get there")


def test_it_listens_while_loading_then_drains_on_sigterm(process):
    server, client = process("--drain-seconds", "0.2")
    with client:
        first = get(client, lambda response: True)
        assert first.status_code == 503
        assert first.json()["status"] == "loading"
        get(client, lambda response: response.status_code == 200)
        assert "<html" in client.get("/").text.lower()
        with client.stream("POST", "/chat/completions", json={**CHAT, "ignore_eos": True}) as response:
            lines = response.iter_lines()
            next(lines)
            server.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert rest[-2] == "data: [DONE]"
        assert "shutting down" in rest[-4]
    assert server.wait(10) == 0
    log = server.stderr.read()
    assert "Fathom listens on http://127.0.0.1" in log
    assert "only this machine can connect" in log
    assert "Tell a story" not in log


def test_the_second_signal_leaves_at_once(process):
    server, client = process()
    with client:
        get(client, lambda response: response.status_code == 200)
        with client.stream("POST", "/chat/completions", json={**CHAT, "ignore_eos": True}) as response:
            next(response.iter_lines())
            server.send_signal(signal.SIGTERM)
            get(client, lambda answer: answer.json()["status"] == "draining")
            server.send_signal(signal.SIGTERM)
            assert server.wait(5) == 128 + signal.SIGTERM


def test_stopping_while_the_model_loads(process):
    server, client = process()
    with client:
        get(client, lambda response: True)
        server.send_signal(signal.SIGINT)
    assert server.wait(10) == 0


def test_no_open_door_by_accident(process):
    server, _ = process("--host", "0.0.0.0")
    assert server.wait(10) == 2
    assert "FATHOM_API_KEY" in server.stderr.read()


def test_listening_needs_no_torch():
    code = (
        "import sys; from fathom.server.api import create_app; from fathom.server.service import Service;"
        "from fathom.app.routes import mount; from fathom.cli import serve; import fathom.server.listen;"
        "mount(create_app(Service(None, 'x')));"
        "assert 'torch' not in sys.modules and 'fathom.engine' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
