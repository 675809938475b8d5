"""`fathom serve --upstream`: in front of a second Fathom, and of servers that misbehave on purpose."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import anthropic
import httpx
import openai
import pytest

from fathom.server.accounts.accounts import Accounts
from fathom.server.accounts.ledger import calls
from fathom.server.gateway import engine as gateway_engine
from fathom.server.gateway.engine import UpstreamEngine
from fathom.server.gateway.upstreams import Upstream, parse, route
from fathom.text import Answer, Thought, ToolCallArguments, ToolCallEnd, ToolCallStart

HELLO = [{"role": "user", "content": "hello there"}]


class Fake:
    """An OpenAI-compatible server whose behaviour a test chooses; it remembers what it was asked."""

    def __init__(self, owner="vllm"):
        self.asked, self.behave, self.health, self.gone = [], self.answer, 200, threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path == "/health":
                    self.send_response(fake.health)
                    self.end_headers()
                    return
                body = json.dumps({"data": [{"id": "fake", "owned_by": owner, "max_model_len": 4096}]}).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                fake.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                fake.behave(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def send(self, handler, *deltas, status=200, done=True, reason="stop"):
        handler.send_response(status)
        handler.end_headers()
        for delta in deltas:
            chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
            handler.wfile.write(b": comment\n\ndata: " + json.dumps(chunk).encode() + b"\n\n")
            handler.wfile.flush()
        if done:
            usage = {"prompt_tokens": 20, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 16}}
            end = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": usage}
            handler.wfile.write(b"data: " + json.dumps(end).encode() + b"\n\ndata: [DONE]\n\n")

    def answer(self, handler):
        self.send(handler, {"role": "assistant", "content": ""}, {"content": "I am "}, {"content": "fake."})

    def refuse(self, status, message="no"):
        def behave(handler):
            body = json.dumps({"error": {"message": message}}).encode()
            handler.send_response(status)
            handler.end_headers()
            handler.wfile.write(body)

        self.behave = behave


@pytest.fixture
def fakes():
    made = []

    def make(*owners):
        made.extend(Fake(owner) for owner in owners)
        return made[-len(owners) :]

    yield make
    for fake in made:
        fake.server.shutdown()
        fake.server.server_close()


@pytest.fixture
def gateway(start):
    def make(*urls, **options):
        return start(UpstreamEngine([parse(url) for url in urls]), **options)

    return make


def ask(served, **fields):
    response = served.chat(model=served.engine.model_name, **fields)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def test_a_second_fathom_behind_every_dialect(start, gateway, tmp_path):
    accounts = Accounts(tmp_path / "accounts.sqlite3", "deepseek-v4-flash")
    behind = start()
    front = gateway(f"{behind.url}/v1", accounts=accounts)
    with openai.OpenAI(base_url=f"{front.url}/v1", api_key="x", max_retries=0) as client:
        whole = client.chat.completions.create(model="deepseek-reasoner", messages=HELLO)
        assert (whole.choices[0].message.content, whole.choices[0].message.reasoning_content) == (
            "hello there ",
            "Let me think.",
        )
        assert whole.usage.completion_tokens_details.reasoning_tokens == 2
        pieces = client.chat.completions.create(model="deepseek-chat", messages=HELLO, stream=True, temperature=0.5)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "hello there "
        assert client.completions.create(model="deepseek-chat", prompt="one two").choices[0].text == "one two "
        assert client.responses.create(model="deepseek-chat", input="hi you").output_text == "hi you "
    with anthropic.Anthropic(base_url=f"{front.url}/anthropic", api_key="x", max_retries=0) as client:
        message = client.messages.create(model="claude", max_tokens=50, messages=HELLO)
        assert message.content[0].text == "hello there "
    params = [ticket.request.params for ticket in behind.engine.tickets]
    assert [one.temperature for one in params] == [1.0, 0.5, 1.0, 1.0, 1.0]
    assert [rendered[2] for rendered in behind.engine.template.rendered] == [True, False, False, False]
    accounts.close()
    rows = calls(Accounts(tmp_path / "accounts.sqlite3", "deepseek-v4-flash")._database)
    assert [(row.hit + row.miss, row.output) for row in rows][:2] == [(11, 4), (11, 2)]  # as the upstream counts


def test_tools_forms_and_logprobs_pass_through(start, gateway):
    def calling(request):
        yield Thought("Hm.")
        for index in range(2):
            yield ToolCallStart(index, f"call_0{index}", "f")
            yield ToolCallArguments(index, '{"a":')
            yield ToolCallArguments(index, " 1}")
            yield ToolCallEnd(index)

    behind = start()
    behind.engine.script, behind.engine.reason = calling, "tool_calls"
    front = gateway(f"{behind.url}/v1")
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
    answer = front.chat(tools=[tool], tool_choice="required", parallel_tool_calls=False).json()["choices"][0]
    assert answer["finish_reason"] == "tool_calls"
    assert [call["function"] for call in answer["message"]["tool_calls"]] == [
        {"name": "f", "arguments": '{"a": 1}'}
    ] * 2
    assert behind.engine.tickets[-1].request.constraint.grammar.begins == "answer"
    behind.engine.script, behind.engine.reason = lambda request: [Answer("{}")], "stop"
    assert ask(front, response_format={"type": "json_object"}) == "{}"
    assert "%json" in behind.engine.tickets[-1].request.constraint.grammar.source


def test_another_upstream_takes_over_before_the_first_token(fakes, gateway):
    bad, good = fakes("vllm", "vllm")
    front = gateway(f"{bad.url};weight=1000000", good.url)
    for behave in (
        lambda: bad.refuse(503),
        lambda: bad.refuse(429),
        lambda: setattr(bad, "behave", lambda handler: bad.send(handler, {"role": "assistant"}, done=False)),
        lambda: setattr(bad, "behave", lambda handler: handler.wfile.write(b"garbage")),
    ):
        behave()
        front.engine.upstreams[0].rests_until = 0.0
        before = len(bad.asked)
        assert ask(front) == "I am fake."
        assert len(bad.asked) == before + 1
    assert ask(front) == "I am fake."  # it rests now
    assert len(bad.asked) == before + 1


def test_after_the_first_token_a_failure_is_told(fakes, gateway):
    bad, good = fakes("vllm", "vllm")
    bad.behave = lambda handler: bad.send(handler, {"content": "Half"}, done=False)
    front = gateway(f"{bad.url};weight=1000000", good.url)
    response = front.chat(model="fake", stream=True)
    assert response.status_code == 200
    assert '"Half"' in response.text
    assert "has no end" in response.text
    assert good.asked == []


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("status", "told"), [(400, 400), (422, 422), (401, 503), (404, 503), (503, 503), (429, 429)])
def test_a_refusal_has_its_status_code_streamed_or_not(fakes, gateway, status, told, stream):
    (fake,) = fakes("vllm")
    front = gateway(fake.url)
    fake.refuse(status, "because of that")
    response = front.chat(model="fake", stream=stream)
    assert (response.status_code, "because of that" in response.json()["error"]["message"]) == (told, True)
    if told in (429, 503):
        assert response.headers["retry-after"]


def test_what_each_kind_of_server_is_told(fakes, gateway):
    vllm, deepseek = fakes("vllm", "deepseek")
    for fake, field, value in (
        (vllm, "chat_template_kwargs", {"thinking": True, "enable_thinking": True}),
        (deepseek, "thinking", {"type": "enabled"}),
    ):
        front = gateway(fake.url)
        front.chat(model="deepseek-reasoner", user_id="ann", top_p=0.5, stop=["x"], max_tokens=7)
        asked = fake.asked[-1]
        assert asked[field] == value
        assert (asked["model"], asked["stream"], asked["top_p"], asked["stop"], asked["max_tokens"]) == (
            "fake",
            True,
            0.5,
            ["x"],
            7,
        )
        assert "temperature" not in asked  # nobody asked for one: the upstream's own holds
        assert ("user_id" in asked) == (fake is deepseek)


def test_health_checks_take_upstreams_out_and_in(fakes, gateway, monkeypatch):
    monkeypatch.setattr(gateway_engine, "CHECK_SECONDS", 0.05)
    one, two = fakes("vllm", "vllm")
    front = gateway(one.url, two.url)
    one.health = two.health = 503

    def until(code):
        deadline = time.monotonic() + 5
        with front.client() as client:
            while client.get("/health").status_code != code:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    until(503)
    assert front.chat(model="fake").status_code == 503
    two.health = 200
    until(200)
    assert ask(front) == "I am fake."
    assert (len(one.asked), len(two.asked)) == (0, 1)


def test_a_client_that_leaves_ends_the_upstreams_work(start, gateway):
    behind = start()
    behind.engine.pause = 0.05
    behind.engine.script = lambda request: [Answer("x ")] * 1000
    front = gateway(f"{behind.url}/v1")
    body = {"model": "deepseek-chat", "messages": HELLO, "stream": True}
    with front.client() as client, client.stream("POST", "/chat/completions", json=body) as response:
        next(response.iter_lines())
    assert behind.engine.tickets[0].cancelled.wait(3)


def test_routing_sticks_to_prefixes_and_respects_weights():
    upstreams = [
        Upstream(f"http://{name}", weight=weight, well=True) for name, weight in (("a", 1), ("b", 3), ("c", 0))
    ]
    firsts = {prefix: route(upstreams, prefix)[0].url for prefix in map(str, range(2000))}
    shares = Counter(firsts.values())
    assert set(shares) == {"http://a", "http://b"}  # a weight of 0 drains
    assert 0.7 < shares["http://b"] / 2000 < 0.8
    more = [*upstreams, Upstream("http://d", weight=4, well=True)]
    moved = [prefix for prefix, first in firsts.items() if route(more, prefix)[0].url != first]
    assert all(route(more, prefix)[0].url == "http://d" for prefix in moved)  # nobody else's prefixes moved
    owner = next(upstream for upstream in upstreams if upstream.url == firsts["7"])
    owner.running = 40
    assert route(upstreams, "7")[0] is not owner  # crowded: the cache is not worth the wait
    owner.well = False
    assert owner not in route(upstreams, "7")


@pytest.mark.parametrize("text", ["ftp://x", "http://x;weight=a", "http://x;weight=-1", "http://x;colour=red"])
def test_upstreams_that_make_no_sense(text):
    with pytest.raises(ValueError, match=r"upstream|weight|float"):
        parse(text)


def test_no_upstream_at_all_says_so(free_port):
    with pytest.raises(ValueError, match="ConnectError"):
        UpstreamEngine([parse(f"http://127.0.0.1:{free_port()}/v1")])


def test_counts_without_usage(fakes, gateway):
    (fake,) = fakes("other")

    def silent(handler):
        fake.send(handler, {"reasoning_content": "Hm"}, {"content": "a"}, {"content": "b"}, done=False)
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        handler.wfile.write(b"data: " + json.dumps(end).encode() + b"\n\n")

    fake.behave = silent
    usage = SimpleNamespace(**gateway(fake.url).chat(model="fake").json()["usage"])
    assert (usage.completion_tokens, usage.completion_tokens_details["reasoning_tokens"]) == (3, 1)


@pytest.mark.slow
def test_the_command(start, free_port):
    behind, port = start(), free_port()
    command = [sys.executable, "-m", "fathom.cli.main", "serve", "--port", str(port), "--upstream", f"{behind.url}/v1"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline:
                    with contextlib.suppress(httpx.TransportError):
                        if client.get("/health").status_code == 200:
                            break
                    time.sleep(0.1)
                asked = client.post("/v1/chat/completions", json={"model": "deepseek-chat", "messages": HELLO})
                assert asked.json()["choices"][0]["message"]["content"] == "hello there "
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()
