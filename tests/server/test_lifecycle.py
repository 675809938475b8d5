"""Loading, waiting, leaving, draining: what becomes of requests when nothing goes straight."""

import asyncio
import itertools
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from fathom.server.listen import bind
from fathom.text import Answer

CHAT = {"model": "deepseek-chat", "messages": [{"role": "user", "content": "hello there"}]}


def eventually(condition, seconds=1.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def drain(served, seconds):
    """Drain on the server's own event loop, as its signal handler does."""
    asyncio.run_coroutine_threadsafe(served.service.drain(seconds), served.loop).result(15)


def test_health_while_loading_and_ready(start):
    go_on = threading.Event()

    def load(progress):
        progress("reading weights", 0.25)
        go_on.wait(10)
        return engine_of_test

    served = start(wait=False)
    engine_of_test = served.engine
    loading = start(engine_of_test, load=load, wait=False)
    with loading.client() as client:
        eventually(lambda: client.get("/health").json()["progress"]["fraction"] == 0.25)
        response = client.get("/health")
        assert response.status_code == 503
        assert response.json()["status"] == "loading"
        assert response.json()["progress"]["stage"] == "reading weights"
        assert client.get("/models").status_code == 200
        go_on.set()
        eventually(lambda: client.get("/health").status_code == 200)
        body = client.get("/health").json()
    assert (body["status"], body["model"], body["queue"]["waiting"]) == ("ready", "scripted:1b", 0)


def test_a_request_waits_for_the_model_then_is_told_to_come_again(start):
    go_on = threading.Event()
    spare = start()

    def load(progress):
        go_on.wait(10)
        return spare.engine

    impatient = start(spare.engine, load=load, wait=False, loading_seconds=0.1)
    refused = impatient.chat()
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    assert "still loading" in refused.json()["error"]["message"]
    patient = start(spare.engine, load=load, wait=False)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(patient.chat)
        time.sleep(0.1)
        go_on.set()
        assert answer.result(5).status_code == 200


def test_a_model_that_cannot_be_loaded_is_reported(start):
    def load(progress):
        raise FileNotFoundError("no such model: run fathom pull")

    served = start(load=load)
    with served.client() as client:
        health = client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "failed")
    assert "run fathom pull" in health.json()["error"]
    assert "run fathom pull" in served.chat().json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_signs_of_life_while_nothing_comes(start, stream):
    served = start(keep_alive_seconds=0.05)
    served.engine.hold.clear()
    with (
        served.client() as client,
        client.stream("POST", "/chat/completions", json={**CHAT, "stream": stream}) as response,
    ):
        assert response.status_code == 200
        pieces = response.iter_raw()
        assert next(pieces).strip() == (b": keep-alive" if stream else b"")
        served.engine.hold.set()
        rest = b"".join(pieces)
    if stream:
        assert rest.endswith(b"data: [DONE]\n\n")
    else:
        assert json.loads(rest)["choices"][0]["message"]["content"] == "hello there "


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_while_waiting_frees_its_place(served, stream):
    served.engine.hold.clear()
    with served.client() as client:
        request = client.build_request("POST", "/chat/completions", json={**CHAT, "stream": stream})
        if stream:
            client.send(request, stream=True).close()
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post("/chat/completions", json=CHAT, timeout=0.2)
    assert served.engine.tickets[0].cancelled.wait(1)
    eventually(lambda: not served.service.active)


def test_a_client_that_leaves_in_the_middle_stops_the_work(served):
    served.engine.script = lambda request: itertools.repeat(Answer("x "))
    served.engine.pause = 0.005
    with (
        served.client() as client,
        client.stream("POST", "/chat/completions", json={**CHAT, "stream": True}) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        assert not served.engine.tickets[0].cancelled.is_set()
    assert served.engine.tickets[0].cancelled.wait(1)
    with served.client() as client:
        page = client.get("/metrics").text
    assert 'finished_reason="aborted"} 1' in page
    assert "fathom_spec_decode_num_drafts_total 3" in page
    assert "fathom_spec_decode_num_draft_tokens_total 12" in page
    assert "fathom_spec_decode_num_accepted_tokens_total 9" in page


def test_forty_streams_at_once_all_finish(served):
    served.engine.pause = 0.002

    def ask(number):
        words = f"question {number} of forty"
        body = {"model": "deepseek-chat", "messages": [{"role": "user", "content": words}], "stream": True}
        with served.client() as client:
            response = client.post("/chat/completions", json=body)
        lines = [line[6:] for line in response.text.split("\n\n") if line.startswith("data: ")]
        chunks = [json.loads(line) for line in lines[:-1]]
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
        return words, text.strip(), lines[-1], chunks[-1]["usage"]

    with ThreadPoolExecutor(40) as pool:
        for words, text, last, usage in pool.map(ask, range(40)):
            assert (text, last) == (words, "[DONE]")
            assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(words), 4)


def test_draining_lets_answers_finish_and_refuses_new_ones(served):
    served.engine.hold.clear()
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(served.chat, stream=True)
        eventually(lambda: served.service.active)
        drained = pool.submit(drain, served, 10)
        eventually(lambda: served.service.state == "draining")
        refused = served.chat()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        with served.client() as client:
            assert client.get("/health").json()["status"] == "draining"
        served.engine.hold.set()
        assert answer.result(5).text.endswith("data: [DONE]\n\n")
        drained.result(5)


@pytest.mark.parametrize("stream", [False, True])
def test_answers_that_outlast_the_drain_end_with_an_error(served, stream):
    served.engine.hold.clear()
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(served.chat, stream=stream)
        eventually(lambda: served.service.active)
        pool.submit(drain, served, 0.1)
        response = answer.result(5)
    assert "shutting down" in response.text
    assert response.status_code == (200 if stream else 503)
    assert served.engine.tickets[0].cancelled.wait(1)


async def test_tokens_do_not_wait_for_acknowledgements():
    """Nagle's algorithm and a client's late ACK would hold the second packet of every answer for 40 ms."""
    accepted = asyncio.get_running_loop().create_future()
    with bind("127.0.0.1", 0) as listener:
        server = await asyncio.start_server(lambda _, writer: accepted.set_result(writer), sock=listener)
        _, client = await asyncio.open_connection(*listener.getsockname())
        writer = await accepted
        assert writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
        client.close()
        server.close()
