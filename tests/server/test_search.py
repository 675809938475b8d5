"""`search: true`: sources before the answer, numbers that hold, failures as notes; streamed and not alike."""

import json
import threading

import anthropic
import openai
import pytest

from fathom.search.configured import EngineSettings
from fathom.search.documents import add_path
from fathom.search.index import Document
from fathom.server.accounts.accounts import Accounts
from fathom.server.searching import SearchService
from fathom.text import Answer, Thought

PAGE = "<title>{title}</title><article><p>{text} It is told at some length, so that it reads as a page.</p></article>"


@pytest.fixture
def search(site, tmp_path):
    """Own documents, a SearXNG-shaped server and the website it finds, all on this machine."""
    settings = EngineSettings(searxng_url=site.url, private_origins=frozenset({site.url}))
    service = SearchService(settings, tmp_path / "index.sqlite3", documents_for=frozenset({"friend"}))
    service.index.add(Document("file:///soup.md", "Lentil soup", "Red lentils cook in twenty minutes."))
    results = [{"url": f"{site.url}/{name}", "title": name, "content": f"snippet of {name}"} for name in ("a", "gone")]
    site.json("/search", {"results": results})
    site.html("/a", PAGE.format(title="A", text="Green lentils cook in thirty minutes."))
    return service


def cites(request):
    """Thinks and answers with marks cut in the middle, one of them for a page that is not there."""
    thought = [Thought("see [citation:1]")] if request.prompt.channel == "thought" else []
    return [*thought, *map(Answer, ["Lentils cook fast[cit", "ation:2]. ", "Wombats dig[citation:1][citation:9]."])]


@pytest.fixture
def searching(start, search):
    running = start(search=search)
    running.engine.script = cites
    return running


def events(reply):
    lines = [line for line in reply.text.split("\n\n") if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def ask(running, question="How long do lentils cook?", **fields):
    return running.chat(messages=[{"role": "user", "content": question}], search=True, **fields)


def test_an_answer_with_sources_and_citations(searching):
    reply = ask(searching).json()
    sources = {source["number"]: source for source in reply["search"]["sources"]}
    titles = {source["title"] for source in sources.values()}
    assert titles == {"Lentil soup", "a", "gone"}
    assert reply["search"]["queries"] == ["How long do lentils cook?"]
    assert [(note["kind"], note["subject"].rpartition("/")[2]) for note in reply["search"]["notes"]] == [
        ("page_unread", "gone")
    ]
    message = reply["choices"][0]["message"]
    assert message["content"] == "Lentils cook fast[1]. Wombats dig[2]."
    assert reply["search"]["dropped"] == 1
    first, second = message["annotations"]
    assert (first["number"], first["source"], first["supported"]) == (1, 2, True)
    assert (second["number"], second["source"], second["supported"]) == (2, 1, False)
    place = first["url_citation"]
    assert message["content"][place["start_index"] : place["end_index"]] == "[1]"
    assert (place["url"], place["title"]) == (sources[2]["url"], sources[2]["title"])


def test_the_prompt_holds_what_is_cited(searching):
    reply = ask(searching).json()
    messages, tools, _ = searching.engine.template.rendered[-1]
    assert tools == []
    for source in reply["search"]["sources"]:
        begin = messages[-1].content.index(f"[webpage {source['number']} begin]")
        end = messages[-1].content.index(f"[webpage {source['number']} end]")
        assert (source["text"] or source["snippet"]) in messages[-1].content[begin:end]
    assert "Green lentils cook in thirty minutes" in messages[-1].content
    assert messages[-1].content.endswith("\n# The user's message is:\nHow long do lentils cook?")


def test_streamed_and_whole_are_one(searching):
    whole = ask(searching, model="deepseek-reasoner").json()
    chunks = events(ask(searching, model="deepseek-reasoner", stream=True))
    assert [chunk["search"]["stage"] for chunk in chunks if "search" in chunk] == [
        "searching", "reading", "found", "cited"
    ]  # fmt: skip
    assert chunks[0]["search"]["engines"] == ["own documents", "searxng"]
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    message = whole["choices"][0]["message"]
    assert "".join(delta.get("content") or "" for delta in deltas) == message["content"]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "see [citation:1]"
    assert [delta["annotations"] for delta in deltas if "annotations" in delta] == [message["annotations"]]
    found = next(chunk["search"] for chunk in chunks if chunk.get("search", {}).get("stage") == "found")
    assert found["sources"] == whole["search"]["sources"]


def test_openais_client_reads_the_citations(searching):
    with openai.OpenAI(base_url=f"{searching.url}/v1", api_key="x") as client:
        question = [{"role": "user", "content": "How long do lentils cook?"}]
        reply = client.chat.completions.create(
            model="deepseek-chat", messages=question, extra_body={"search": True}, n=2
        )
    for choice in reply.choices:
        assert choice.message.annotations[0].url_citation.title in {"Lentil soup", "a", "gone"}


def test_nothing_found_is_said_and_the_answer_comes(start, tmp_path):
    with SearchService(EngineSettings(), tmp_path / "index.sqlite3") as search:
        running = start(search=search)
        running.engine.script = cites
        reply = ask(running).json()
    assert [note["kind"] for note in reply["search"]["notes"]] == ["nothing_found"]
    assert "nothing found (own documents)" in reply["search"]["notes"][0]["text"]
    assert reply["choices"][0]["message"]["content"] == "Lentils cook fast. Wombats dig."
    assert "The search found nothing. Say so" in running.engine.template.rendered[-1][0][-1].content


def test_whatever_breaks_in_a_search_the_answer_comes(start, tmp_path):
    (tmp_path / "index.sqlite3").write_bytes(b"this is no database" * 100)
    with SearchService(EngineSettings(searxng_url="http://127.0.0.1:9"), tmp_path / "index.sqlite3") as search:
        reply = ask(start(search=search)).json()
    assert [note["kind"] for note in reply["search"]["notes"]] == ["search_failed"]
    assert reply["choices"][0]["message"]["content"]


def test_own_documents_are_not_for_every_key(start, search, tmp_path):
    from fathom.server.accounts import keys
    from fathom.server.accounts.database import open_database

    path = tmp_path / "accounts.sqlite3"
    secrets = {name: keys.create(open_database(path), name) for name in ("friend", "stranger")}
    running = start(search=search, accounts=Accounts(path, "deepseek-v4-flash"))

    def ask_as(name):
        headers = {"Authorization": f"Bearer {secrets[name]}"}
        body = {"model": "deepseek-chat", "messages": [{"role": "user", "content": "lentils"}], "search": True}
        with running.client(headers=headers) as client:
            return client.post("/chat/completions", json=body).json()["search"]

    assert "Lentil soup" in {source["title"] for source in ask_as("friend")["sources"]}
    said = ask_as("stranger")
    assert "Lentil soup" not in {source["title"] for source in said["sources"]}
    assert "documents_private" in {note["kind"] for note in said["notes"]}


def test_sources_are_cut_to_the_context(start, search):
    search.index.add(Document("file:///long.md", "Lentils", "Lentils are grown here. " * 200))
    running = start(search=search)
    running.engine.max_tokens = 3400
    reply = ask(running).json()
    prompt = running.engine.template.rendered[-1][0][-1].content
    assert len(prompt) <= 3400 - 1024
    assert 1 <= len(reply["search"]["sources"]) < 4
    running.engine.max_tokens = 2300
    assert [note["kind"] for note in ask(running).json()["search"]["notes"]][-1] == "no_room"


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"tools": [{"type": "function", "function": {"name": "send_mail"}}]}, 422, "search and tools"),
        ({"messages": [{"role": "system", "content": "hello"}]}, 400, "a message of the user"),
    ],
)
def test_what_cannot_be_searched_for_is_refused(searching, fields, status, said):
    reply = searching.chat(**{"messages": [{"role": "user", "content": "x"}], "search": True, **fields})
    assert reply.status_code == status
    assert said in reply.json()["error"]["message"]


def test_a_server_without_search_says_so(served):
    reply = ask(served)
    assert reply.status_code == 400
    assert "does not search" in reply.json()["error"]["message"]


def test_a_client_that_leaves_in_mid_search_leaves_nothing_behind(start, search, site):
    import time

    site.pages["/search"] = lambda handler: time.sleep(1.5)
    running = start(search=search)
    with (
        running.client() as client,
        client.stream(
            "POST",
            "/chat/completions",
            json={
                "model": "deepseek-chat",
                "messages": [{"role": "user", "content": "lentils"}],
                "search": True,
                "stream": True,
            },
        ) as reply,
    ):
        next(reply.iter_lines())
        assert running.service.active
    deadline = time.monotonic() + 5
    while running.service.active:
        assert time.monotonic() < deadline, "the search goes on"
        time.sleep(0.02)
    assert running.engine.tickets == []


def test_draining_ends_a_search_with_an_error(start, search, site):
    import time

    site.pages["/search"] = lambda handler: time.sleep(1.5)
    running = start(search=search)
    replies = []
    asking = threading.Thread(target=lambda: replies.append(ask(running, stream=True)))
    asking.start()
    deadline = time.monotonic() + 5
    while not running.service.active:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    import asyncio

    asyncio.run_coroutine_threadsafe(running.service.drain(0), running.loop).result(5)
    asking.join(10)
    assert "shutting down" in events(replies[0])[-1]["error"]["message"]


def test_the_command_searches(search, tmp_path, monkeypatch, capsys, smollm2_gguf, site):
    from fathom.cli.main import main

    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "soup.md").write_text("# Lentil soup\n\nRed lentils cook in twenty minutes.")
    assert main(["index", "add", str(folder)]) == 0
    monkeypatch.setenv("FATHOM_SEARXNG_URL", site.url)
    monkeypatch.setenv("FATHOM_PRIVATE_ORIGINS", site.url)
    capsys.readouterr()
    assert main(["run", "How long do lentils cook?", "--search", "--json", "--max-tokens", "16", "--seed", "1"]) == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert {source["title"] for source in report["search"]["sources"]} == {"Lentil soup", "a", "gone"}
    assert report["content"]
    assert isinstance(report["annotations"], list)
    assert "reading 2 pages" in said.err


@pytest.fixture
def claude(searching):
    with anthropic.Anthropic(base_url=f"{searching.url}/anthropic", api_key="x", max_retries=0, timeout=20) as client:
        yield client


ASK_CLAUDE = {
    "model": "deepseek-chat",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "How long do lentils cook?"}],
    "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}],
}


def test_anthropics_web_search(searching, claude):
    whole = claude.messages.create(**ASK_CLAUDE)
    with claude.messages.stream(**ASK_CLAUDE) as stream:
        streamed = stream.get_final_message()
    assert [block.type for block in whole.content] == ["server_tool_use", "web_search_tool_result", "text"]
    use, result, text = whole.content
    assert use.input == {"query": "How long do lentils cook?"}
    assert result.tool_use_id == use.id
    assert {page.title for page in result.content} == {"Lentil soup", "a", "gone"}
    assert text.text == "Lentils cook fast[1]. Wombats dig[2]."
    assert [one.url for one in text.citations] == [result.content[1].url, result.content[0].url]
    assert whole.usage.server_tool_use.web_search_requests == 1
    assert [block.type for block in streamed.content] == [block.type for block in whole.content]
    assert streamed.content[0].input == use.input
    assert streamed.content[2].text == text.text
    assert streamed.content[2].citations == text.citations
    # What was found is sent back with the answer, as Anthropic's clients do.
    history = [
        *ASK_CLAUDE["messages"],
        {"role": "assistant", "content": [block.model_dump() for block in whole.content]},
    ]
    claude.messages.create(**{**ASK_CLAUDE, "messages": [*history, {"role": "user", "content": "And beans?"}]})
    messages, _, _ = searching.engine.template.rendered[-1]
    assert [message.role for message in messages] == ["user", "assistant", "user"]
    assert messages[1].content == text.text


def test_anthropics_domains_restrict_the_search(searching, claude, site):
    tool = {**ASK_CLAUDE["tools"][0], "allowed_domains": ["lentils.example"]}
    reply = claude.messages.create(**{**ASK_CLAUDE, "tools": [tool]})
    # Nothing found: looked for once more by the question's words alone.
    assert [block.type for block in reply.content] == [
        *("server_tool_use", "web_search_tool_result") * 2, "text"
    ]  # fmt: skip
    assert [reply.content[place].content for place in (1, 3)] == [[], []]
    assert [reply.content[place].input["query"] for place in (0, 2)] == [
        "How long do lentils cook?",
        "long lentils cook",
    ]
    assert reply.content[0].id == reply.content[1].tool_use_id != reply.content[2].id == reply.content[3].tool_use_id
    assert reply.usage.server_tool_use.web_search_requests == 2
    assert any("site%3Alentils.example" in path for _, path, _, _ in site.requests)


def test_engines_and_sites_may_be_named(searching, site):
    question = [{"role": "user", "content": "lentils"}]
    own = searching.chat(messages=question, search={"engines": ["own documents"]}).json()
    assert [source["title"] for source in own["search"]["sources"]] == ["Lentil soup"]
    assert site.requests == []
    blocked = searching.chat(messages=question, search={"blocked_sites": ["127.0.0.1"]}).json()
    assert [source["title"] for source in blocked["search"]["sources"]] == ["Lentil soup"]
    few = searching.chat(messages=question, search={"max_results": 1}).json()
    assert len(few["search"]["sources"]) == 1


def test_a_small_model_is_given_quotes_and_a_short_prompt(searching):
    from fathom.models import PRESETS

    searching.engine.config = PRESETS["tiny-v2"]
    searching.engine.script = lambda request: [Answer("Fast.")]
    reply = ask(searching, "How long do red lentils cook?").json()
    prompt = searching.engine.template.rendered[-1][0][-1].content
    assert prompt.endswith("Answer this question from the text above: How long do red lentils cook?")
    assert "webpage" not in prompt
    content = reply["choices"][0]["message"]["content"]
    assert content.startswith("> Red lentils cook in twenty minutes.[1]\n")
    assert content.endswith("\n\nFast.")
    first = reply["choices"][0]["message"]["annotations"][0]
    assert first["supported"] is True
    assert first["url_citation"]["title"] == "Lentil soup"


def test_changed_files_are_found_and_slow_ones_do_not_hold_the_answer(start, tmp_path, monkeypatch):
    monkeypatch.setattr("fathom.server.own_documents.FRESH_SECONDS", 0.0)
    monkeypatch.setattr("fathom.server.own_documents.PATIENCE_SECONDS", 5.0)
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text("Plums are ripe.")
    with SearchService(EngineSettings(), tmp_path / "index.sqlite3") as search:
        add_path(search.index, folder, search.extractor)
        running = start(search=search)
        (folder / "b.md").write_text("Quinces are ripe.")
        assert [one["title"] for one in ask(running, "quinces").json()["search"]["sources"]] == ["b"]
        monkeypatch.setattr("fathom.server.own_documents.PATIENCE_SECONDS", 0.05)
        reading = threading.Event()
        monkeypatch.setattr("fathom.server.own_documents.refresh", lambda *arguments: reading.wait(5))
        assert [one["title"] for one in ask(running, "plums").json()["search"]["sources"]] == ["a"]
        reading.set()
