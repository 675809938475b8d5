"""Files that go with a question: read in bounds, whole where they fit, by passages where they do not."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.app import files
from fathom.app.files import File, file_prompt, fit, passages
from fathom.search.configured import EngineSettings
from fathom.server.searching import SearchService
from fathom.text import Answer


@pytest.fixture
def served(start_app, tmp_path):
    search = SearchService(EngineSettings(), tmp_path / "index.sqlite3")
    return start_app(search=search)


def upload(visitor, name, data, **fields):
    return visitor.post("files", files={"file": (name, io.BytesIO(data))}, data=fields)


def test_a_file_becomes_a_chip_and_goes_into_the_question(served, visitor):
    chip = upload(visitor, "../notes/plan.md", b"# Plan\n\nSoup on Monday.").json()
    assert {**chip, "id": ""} == {
        "id": "",
        "name": "plan.md",
        "kind": "text",
        "bytes": 23,
        "truncated": False,
        "characters": 23,
        "tokens": 23,
        "used": None,
    }
    chat = visitor.new_chat(title="x")
    run = visitor.begin(chat, content="What is on Monday?", files=[chip["id"]])
    told = [data for _, kind, data in visitor.events(run["run"]["id"]) if kind == "files"]
    assert told == [{"message": run["user"]["id"], "files": [{**run["user"]["files"][0], "used": "whole"}]}]
    asked = served.engine.template.rendered[-1][0][-1].content
    assert asked == (
        "[file name]: plan.md\n[file content begin]\n# Plan\n\nSoup on Monday.\n[file content end]\nWhat is on Monday?"
    )
    assert visitor.messages(chat)[0]["files"][0]["used"] == "whole"
    visitor.ask(chat, "And then?")
    assert "Soup on Monday" in served.engine.template.rendered[-1][0][0].content
    assert visitor.get(f"files/{chip['id']}").json()["text"].startswith("# Plan")
    visitor.delete(f"chats/{chat}")
    assert visitor.get(f"files/{chip['id']}").status_code == 404


def test_a_long_file_is_asked_by_passages(served, visitor):
    lines = [f"Paragraph {n} speaks of nothing in particular, at some length, to fill the page." for n in range(400)]
    lines[317] = "The treasure lies under the old oak by the mill."
    chip = upload(visitor, "long.txt", "\n\n".join(lines).encode()).json()
    chat = visitor.new_chat(title="x")
    answer = visitor.begin(chat, content="Where is the treasure?", files=[chip["id"]])
    list(visitor.events(answer["run"]["id"]))
    assert visitor.messages(chat)[0]["files"][0]["used"] == "passages"
    asked = served.engine.template.rendered[-1][0][-1].content
    assert "under the old oak" in asked
    assert "passages of a longer file" in asked
    assert len(asked) < 8192


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("empty.txt", b"", "empty"),
        ("a.zip", b"PK\x03\x04rest", "unpack"),
        ("b.pdf", b"%PDF-1.7\ngarbage", "cannot be read"),
        ("c.bin", b"\x00\x01\x02\x03", "not a text"),
    ],
)
def test_what_cannot_be_read_is_said_in_words(served, visitor, name, data, says):
    refused = upload(visitor, name, data)
    assert refused.status_code == 422, refused.text
    error = refused.json()["error"]
    assert error["code"] == "unreadable"
    assert says in error["message"]
    assert name in error["message"]


def test_too_large_and_malformed_uploads(served, visitor, monkeypatch):
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 1000)
    assert upload(visitor, "big.txt", b"x" * 1001).status_code == 413
    assert visitor.post("files", json={"file": "x"}).status_code == 400
    assert visitor.post("files", data={"file": "text"}, files={"other": ("a", b"x")}).status_code == 400
    assert (
        visitor.post("files", content=b"--", headers={"content-type": "multipart/form-data; boundary=x"}).status_code
        == 400
    )
    monkeypatch.setattr(files, "MAX_KEPT_CHARACTERS", 5)
    assert upload(visitor, "a.txt", b"123456").status_code == 201
    assert upload(visitor, "b.txt", b"123456").status_code == 413


def test_files_of_others_and_unknown_ones_are_not_sent(served, visitor):
    chat = visitor.new_chat()
    refused = visitor.post(f"chats/{chat}/answers", json={"content": "x", "files": ["0" * 32]})
    assert refused.status_code == 404
    assert visitor.messages(chat) == []
    chip = upload(visitor, "a.txt", b"hello").json()
    assert visitor.delete(f"files/{chip['id']}").status_code == 204
    assert visitor.get(f"files/{chip['id']}").status_code == 404


def test_a_file_sent_in_two_chats_lives_as_long_as_either(served, visitor):
    chip = upload(visitor, "a.txt", b"shared words").json()
    first, second = visitor.new_chat(title="1"), visitor.new_chat(title="2")
    visitor.ask(first, "one", files=[chip["id"]])
    visitor.ask(second, "two", files=[chip["id"]])
    visitor.delete(f"chats/{first}")
    visitor.ask(second, "three")
    assert "shared words" in served.engine.template.rendered[-1][0][0].content


def test_temporary_files_stay_in_memory(served, visitor, fathom_home):
    chip = upload(visitor, "a.txt", b"whispered words", temporary="1").json()
    assert chip["id"].startswith("t")
    chat = visitor.new_chat(title="x", temporary=True)
    visitor.ask(chat, "one", files=[chip["id"]])
    assert "whispered words" in served.engine.template.rendered[-1][0][0].content
    for path in fathom_home.rglob("*"):
        assert not path.is_file() or b"whispered" not in path.read_bytes(), path


def test_search_looks_for_the_question_and_not_for_the_file(served, visitor):
    from fathom.search.index import Document

    served.service.search.index.add(Document("file:///oak.md", "Oak", "The oak is a tree of the beech family."))
    served.engine.script = lambda request: [Answer("A tree [cit"), Answer("ation:1]. And [citation:9].")]
    chip = upload(visitor, "a.txt", b"words of the file").json()
    chat = visitor.new_chat(title="x")
    run = visitor.begin(chat, content="What is an oak?", files=[chip["id"]], search=True)["run"]["id"]
    events = list(visitor.events(run))
    kinds = [kind for _, kind, _ in events]
    assert kinds.index("sources") < kinds.index("answer")
    answer = visitor.messages(chat)[1]
    assert answer["queries"] == ["What is an oak?"]
    assert answer["content"] == "A tree [citation:1]. And ."
    assert [(one["title"], one["cited"], one["number"]) for one in answer["sources"]] == [("Oak", True, 1)]
    assert answer["citations"] == [{"source": 1, "supported": True}]
    asked = served.engine.template.rendered[-1][0][-1].content
    assert "[webpage 1 begin]" in asked
    assert "words of the file" in asked
    passage = visitor.get("documents", params={"passage": answer["sources"][0]["passage"]}).json()
    assert passage["text"] == "The oak is a tree of the beech family."
    assert visitor.get("documents", params={"passage": "nonsense"}).status_code == 404


def test_a_search_that_breaks_never_breaks_the_answer(served, visitor, monkeypatch):
    def broken(*arguments, **options):
        raise OSError("the disk is on fire")

    monkeypatch.setattr(type(served.service.search.index), "search", broken)
    answer = visitor.ask(visitor.new_chat(title="x"), "hello there", search=True)
    assert answer["state"] == "complete"
    assert answer["notes"]
    assert answer["sources"] == []


def count(text):
    return len(text)


def test_passages_come_in_order_with_their_sections():
    text = "".join(f"Part {n} about {'apples' if n in (2, 7) else 'stones'}. " + "x" * 900 + "\n\n" for n in range(10))
    half = len(text) // 2
    file = File("1", "a.txt", text, [("page 1", 0, half), ("page 2", half, len(text))])
    found = passages(file, "apples", 2500, count)
    assert found.index("(page 1) Part 2") < found.index("(page 2) Part 7")
    assert "stones" not in found
    spread = passages(file, "zzz", 3500, count)
    assert "Part 0" in spread
    assert "Part 9" in spread


@given(
    st.lists(st.tuples(st.text(max_size=10), st.text("abc \n.", max_size=5000)), max_size=4),
    st.integers(0, 3000),
    st.text("abc ", max_size=20),
)
@settings(max_examples=40, deadline=None)
def test_files_never_take_more_than_their_budget(contents, budget, question):
    given_files = {str(n): File(str(n), name, text, []) for n, (name, text) in enumerate(contents)}
    fitted = fit(given_files, question, budget, count)
    assert set(fitted) == set(given_files)
    # The line that says that these are passages may go over a budget that is too small for anything.
    note = max(0, len(fitted) * (len(files._PARTS) + 1))
    assert sum(len(content) for content, _ in fitted.values()) <= budget + note
    for identity, (content, used) in fitted.items():
        assert used == "passages" or content == given_files[identity].text


def test_the_published_file_prompt():
    assert file_prompt([("a", "1"), ("b", "2")], "Why?") == (
        "[file name]: a\n[file content begin]\n1\n[file content end]\n"
        "[file name]: b\n[file content begin]\n2\n[file content end]\nWhy?"
    )
