"""Exports and imports: round trip, DeepSeek's and ChatGPT's forms, and files that somebody made to do harm."""

import io
import json
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.app import imports
from fathom.app.database import Database
from fathom.app.exports import markdown, safe_name
from fathom.app.imports import read_conversation
from fathom.app.library import Library
from fathom.app.messages import Message, new_id, path_to
from fathom.text import Answer, Thought

CHATGPT = {
    "title": "Dinner plans",
    "create_time": 1700000000.5,
    "update_time": 1700000100.0,
    "conversation_id": "c-1",
    "current_node": "n5",
    "mapping": {
        "root": {"id": "root", "message": None, "parent": None, "children": ["n0"]},
        "n0": {
            "parent": "root",
            "message": {"author": {"role": "system"}, "content": {"content_type": "text", "parts": [""]}},
        },
        "n1": {
            "parent": "n0",
            "message": {
                "author": {"role": "user"},
                "create_time": 1700000001.0,
                "content": {"content_type": "text", "parts": ["What shall I cook?"]},
            },
        },
        "n2": {
            "parent": "n1",
            "message": {
                "author": {"role": "assistant"},
                "content": {"content_type": "thoughts", "thoughts": [{"summary": "s", "content": "Hm, lentils."}]},
            },
        },
        "n3": {
            "parent": "n2",
            "message": {
                "author": {"role": "tool"},
                "content": {"content_type": "text", "parts": ["tool output"]},
            },
        },
        "n5": {
            "parent": "n3",
            "message": {
                "author": {"role": "assistant"},
                "metadata": {"model_slug": "gpt-4o"},
                "content": {"content_type": "multimodal_text", "parts": [{"asset_pointer": "x"}, "Lentil soup."]},
            },
        },
        "n6": {
            "parent": "n1",
            "message": {
                "author": {"role": "assistant"},
                "content": {"content_type": "text", "parts": ["Another answer."]},
            },
        },
    },
}
DEEPSEEK = {
    "id": "d-1",
    "title": "晚餐",
    "inserted_at": "2025-03-30T04:49:36.505000+08:00",
    "updated_at": "2025-03-30T04:50:29.156000+08:00",
    "mapping": {
        "root": {"id": "root", "parent": None, "children": ["1"], "message": None},
        "1": {
            "id": "1",
            "parent": "root",
            "children": ["2"],
            "message": {
                "files": [],
                "model": "deepseek-reasoner",
                "inserted_at": "2025-03-30T04:49:37+08:00",
                "fragments": [{"type": "REQUEST", "content": "吃什么？"}],
            },
        },
        "2": {
            "id": "2",
            "parent": "1",
            "children": [],
            "message": {
                "model": "deepseek-reasoner",
                "inserted_at": "2025-03-30T04:49:38+08:00",
                "fragments": [
                    {"type": "THINK", "content": "想一想"},
                    {"type": "SEARCH", "results": []},
                    {"type": "RESPONSE", "content": "小扁豆汤。"},
                ],
            },
        },
    },
}
DEEPSEEK_OLD = {
    "id": "d-0",
    "title": "",
    "mapping": {
        "1": {"parent": None, "message": {"role": "USER", "content": "Hi"}},
        "2": {"parent": "1", "message": {"role": "ASSISTANT", "content": "Hello", "reasoning_content": "A greeting."}},
    },
}


@pytest.fixture
def library(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'app.sqlite3'}")
    yield Library(database, "anna")
    database.close()


def zipped(**members):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, value in members.items():
            packed.writestr(name.replace("__", "/") + ".json", value)
    return archive.getvalue()


def only_chat(library):
    (identity,) = library.ids()
    chat = library.chat(identity)
    return chat, path_to(chat.messages, chat.head)


def test_chatgpts_export(library):
    result = imports.take(library, "export.zip", zipped(conversations=json.dumps([CHATGPT, 5, {}])))
    assert (result.imported, result.skipped) == (1, 2)
    chat, path = only_chat(library)
    assert chat.summary["title"] == "Dinner plans"
    assert (chat.summary["created"], chat.summary["updated"]) == (1700000000.5, 1700000100.0)
    assert [(one.role, one.content) for one in path] == [
        ("user", "What shall I cook?"),
        ("assistant", "Lentil soup."),
    ]
    assert path[1].thought == "Hm, lentils."
    assert [one.content for one in chat.messages.values() if one.parent == path[0].id] == [
        "Lentil soup.",
        "Another answer.",
    ]
    assert library.search("lentil")


@pytest.mark.parametrize("data", [json.dumps([DEEPSEEK]), json.dumps(DEEPSEEK)])
def test_deepseeks_export(library, data):
    assert imports.take(library, "conversations.json", data.encode()).imported == 1
    _, path = only_chat(library)
    assert [(one.role, one.content, one.thought) for one in path] == [
        ("user", "吃什么？", None),
        ("assistant", "小扁豆汤。", "想一想"),
    ]
    assert path[1].model == "deepseek-reasoner"
    assert library.search("小扁豆")


def test_deepseeks_older_export(library):
    imports.take(library, "x.json", json.dumps([DEEPSEEK_OLD]).encode())
    chat, path = only_chat(library)
    assert chat.summary["title"] == "Hi"
    assert [(one.content, one.thought) for one in path] == [("Hi", None), ("Hello", "A greeting.")]


def test_a_second_import_adds_nothing(library):
    data = json.dumps([CHATGPT, DEEPSEEK]).encode()
    assert imports.take(library, "x.json", data).imported == 2
    again = imports.take(library, "x.json", data)
    assert (again.imported, again.already) == (0, 2)
    assert len(library.ids()) == 2


def test_our_own_export_comes_back_whole(served, visitor):
    served.engine.script = lambda request: [Thought("Let me see."), Answer("**Yes**, 好的.")]
    chat = visitor.new_chat(title="Mine", folder="recipes")
    answer = visitor.ask(chat, "first", think=True)
    visitor.patch(f"chats/{chat}/messages/{answer['id']}", json={"rating": 1})
    list(visitor.events(visitor.begin(chat, question=answer["parent"])["run"]["id"]))
    visitor.post("prompts", json={"title": "t", "text": "prompt text"})
    visitor.post("memories", json={"text": "memory text"})
    before = visitor.get(f"chats/{chat}").json()
    exported = visitor.get("export")
    assert exported.headers["content-disposition"].startswith("attachment")
    visitor.delete("chats")
    for note in visitor.get("prompts").json()["prompts"]:
        visitor.delete(f"prompts/{note['id']}")
    result = visitor.post("import", files={"file": ("fathom-chats.json", exported.content)}).json()
    assert (result["imported"], result["skipped"]) == (1, 0)
    after = visitor.get(f"chats/{visitor.get('chats').json()['chats'][0]['id']}").json()
    for name in ("title", "folder", "created"):
        assert after[name] == before[name]
    names = ("role", "content", "thought", "state", "rating", "thought_seconds", "created")
    assert [[one[name] for name in names] for one in after["messages"]] == [
        [one[name] for name in names] for one in before["messages"]
    ]
    assert after["messages"][-1]["id"] == after["head"]
    assert [note["text"] for note in visitor.get("prompts").json()["prompts"]] == ["prompt text"]
    assert [note["text"] for note in visitor.get("memories").json()["memories"]] == ["memory text"]
    packed = zipfile.ZipFile(io.BytesIO(visitor.get("export", params={"format": "markdown"}).content))
    (name,) = packed.namelist()
    assert name.startswith("recipes/")
    assert "**Yes**, 好的." in packed.read(name).decode()
    one = visitor.get(f"chats/{after['id']}/export", params={"format": "json"}).json()
    assert visitor.post("import", files={"file": ("x.json", json.dumps(one).encode())}).json()["imported"] == 1
    assert visitor.get(f"chats/{after['id']}/export", params={"format": "exe"}).status_code == 422


def test_markdown_links_citations_and_no_hostile_address(library):
    chat = library.create(title="# Title\nwith lines")["id"]
    question = Message(new_id(), None, "user", 1.0, "Why?")
    answer = Message(new_id(), question.id, "assistant", 2.0, "So [citation:1] and [citation:2] [citation:9].")
    answer.thought, answer.thought_seconds = "Hm.", 3.2
    urls = ("https://example.org/a", "javascript:alert(1)")
    answer.sources = [
        {"number": number, "url": url, "title": "A ] title", "cited": True} for number, url in enumerate(urls, start=1)
    ]
    library.add(chat, [question, answer])
    text = markdown(library.chat(chat))
    assert text.startswith("# # Title with lines\n")
    assert "So [[1]](<https://example.org/a>) and [2]." in text
    assert "](<javascript" not in text
    assert "<summary>Thought for 3 s</summary>" in text


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", ".. .. etc passwd"),
        ("a/b\\c:d", "a b c d"),
        ("\u202egnp", "gnp"),
        ("...", "chat"),
        ("", "chat"),
    ],
)
def test_names_of_files_hide_no_path(name, safe):
    assert "/" not in safe_name(name)
    assert safe_name(name) == safe.strip(" .") or safe_name(name) == safe


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not json",
        b"\xff\xfe\x00",
        b'"text"',
        b"[" * 100_000,
        b'{"mapping": 5}' + b"x",
        b"PK\x03\x04 broken",
        zipped(other="[]"),
    ],
)
def test_what_is_no_export_is_refused_in_words(library, data):
    with pytest.raises(imports.ApiError) as refused:
        imports.take(library, "x.json", data)
    assert refused.value.status in (400, 413)
    assert library.ids() == []


def test_a_bomb_does_not_unfold(library, monkeypatch):
    monkeypatch.setattr(imports, "MAX_UNPACKED_BYTES", 100_000)
    bomb = zipped(conversations="[" + " " * 5_000_000 + "]")
    assert len(bomb) < 20_000
    with pytest.raises(imports.ApiError) as refused:
        imports.take(library, "x.zip", bomb)
    assert refused.value.status == 413


def test_cycles_orphans_and_deep_trees_end():
    nodes = {str(n): {"parent": str(n - 1), "message": {"role": "user", "content": f"{n}"}} for n in range(5000)}
    nodes["0"]["parent"] = None
    deep = read_conversation({"mapping": nodes})
    assert len(deep.messages) == 5000
    cycle = {"a": {"parent": "b", "message": {"role": "user", "content": "x"}}, "b": {"parent": "a", "message": None}}
    assert read_conversation({"mapping": cycle}) is None
    itself = {"a": {"parent": "a", "message": {"role": "user", "content": "x"}}}
    assert len(read_conversation({"mapping": itself}).messages) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
NAMES = [
    "id",
    "parent",
    "message",
    "author",
    "role",
    "content",
    "parts",
    "fragments",
    "type",
    "content_type",
    "thoughts",
]
odd = st.deferred(
    lambda: st.dictionaries(st.sampled_from(NAMES), odd | json_values | st.lists(odd, max_size=3), max_size=5)
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "mapping": st.dictionaries(st.sampled_from("abcd"), odd | json_values, max_size=4) | json_values,
            "messages": st.lists(odd, max_size=4) | json_values,
            "title": json_values,
            "create_time": json_values,
            "updated_at": json_values,
            "current_node": json_values,
            "head": json_values,
            "folder": json_values,
        },
    )
)
@settings(max_examples=150, deadline=None)
def test_any_json_is_a_conversation_or_is_not_and_never_breaks(entry):
    conversation = read_conversation(entry)
    if conversation is not None:
        identities = {message.id for message in conversation.messages}
        assert conversation.head in identities
        assert all(message.parent is None or message.parent in identities for message in conversation.messages)
        json.dumps([message.json() for message in conversation.messages]).encode()
