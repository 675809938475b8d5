"""The list of chats, search in them, folders, shares, prompts, memories; many writers at once; hostile words."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fathom.app.database import Database
from fathom.app.excerpts import excerpt
from fathom.app.library import Library
from fathom.app.messages import Message, new_id
from fathom.app.titles import cleaned, first_words
from fathom.text import Answer

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><svg/onload=alert(1)>",
    "javascript:alert(1)",
    "{{constructor.constructor('alert(1)')()}}",
    "'; DROP TABLE app_chats; --",
    "../../etc/passwd",
    "\u202egnp.exe",
    "a\u0000b".replace("\u0000", "\u2400"),
    "`${alert(1)}`",
]


@pytest.fixture
def library(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'app.sqlite3'}")
    yield Library(database, "anna")
    database.close()


def test_pages_of_the_list_hold_every_chat_once_pinned_first(visitor):
    made = [visitor.new_chat(title=f"chat {number}") for number in range(7)]
    visitor.patch(f"chats/{made[2]}", json={"pinned": True})
    seen, before = [], None
    for _ in range(9):
        page = visitor.get("chats", params={"limit": 2, **({"before": before} if before else {})}).json()
        seen += [one["id"] for one in page["chats"]]
        before = page["next"]
        if before is None:
            break
    assert seen == [made[2], *reversed(made[:2] + made[3:])]
    assert visitor.get("chats", params={"before": "1'; DROP"}).status_code == 400
    assert visitor.get("chats", params={"limit": 10**9}).status_code == 422


def test_rename_pin_move_show_and_delete(visitor):
    chat = visitor.new_chat(folder="recipes")
    version = visitor.get(f"chats/{chat}").json()["version"]
    changed = visitor.patch(f"chats/{chat}", json={"title": "Soup", "pinned": True, "folder": "winter"}).json()
    assert (changed["title"], changed["pinned"], changed["folder"]) == ("Soup", True, "winter")
    assert changed["version"] > version
    assert visitor.get("folders").json() == {"folders": [{"name": "winter", "chats": 1}]}
    assert [one["id"] for one in visitor.get("chats", params={"folder": "winter"}).json()["chats"]] == [chat]
    assert visitor.post("folders/rename", json={"from": "winter", "to": None}).status_code == 204
    assert visitor.get("folders").json() == {"folders": []}
    assert visitor.patch(f"chats/{chat}", json={"head": "0" * 32}).status_code == 404
    assert visitor.patch(f"chats/{chat}", json={"title": 5}).status_code == 422
    assert visitor.patch(f"chats/{chat}", json={"id": "x"}).status_code == 422
    assert visitor.delete(f"chats/{chat}").status_code == 204
    assert visitor.get(f"chats/{chat}").status_code == 404
    assert visitor.delete(f"chats/{chat}").status_code == 404


@pytest.mark.parametrize(
    ("query", "finds"),
    [
        ("lentil", ["a"]),
        ("lentils soup", ["a"]),
        ("SOUP", ["a", "b"]),
        ("食谱", ["c"]),
        ("وصفة", ["d"]),
        ("len", ["a"]),  # begun
        ("lentils bread", []),
        ('"; DROP TABLE app_history; --', []),
        ("NEAR(a b) OR *", []),
        ("title words", ["e"]),
        ("%", []),
    ],
)
def test_search_in_history(library, query, finds):
    texts = {"a": "Soup of red lentils", "b": "soup with bread", "c": "一周清淡的食谱", "d": "وصفة العدس", "e": "x"}
    names = {}
    for name, content in texts.items():
        chat = library.create(title="Title words" if name == "e" else "")["id"]
        library.add(chat, [Message(new_id(), None, "user", 1.0, content)])
        names[chat] = name
    other = Library(library.database, "bert")
    theirs = other.create(title="soup")["id"]
    other.add(theirs, [Message(new_id(), None, "user", 1.0, "lentils 食谱 soup")])
    found = library.search(query)
    assert sorted(names[one["id"]] for one in found) == finds
    for one in found:
        match = one["match"]
        if match is not None:
            units = match["text"].encode("utf-16-le")
            assert all(units[2 * first : 2 * last].decode("utf-16-le") for first, last in match["spans"])


def test_deleted_words_are_not_found_and_not_kept(library):
    chat = library.create()["id"]
    question = Message(new_id(), None, "user", 1.0, "a secretword here")
    library.add(chat, [question, Message(new_id(), question.id, "assistant", 2.0, "anotherword")])
    assert library.search("secretword")
    library.delete_message(chat, question.id)
    assert library.search("secretword") == library.search("anotherword") == []
    with library.database.read() as connection:
        for table in ("app_messages", "app_history"):
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0
    assert library.chat(chat).head is None


@given(
    st.text(max_size=300), st.lists(st.text(st.characters(categories=("L", "N")), min_size=1), min_size=1, max_size=4)
)
@settings(max_examples=80, deadline=None)
def test_spans_of_an_excerpt_are_places_in_its_text(content, words):
    found = excerpt(content, words)
    units = found["text"].encode("utf-16-le", "surrogatepass")
    for first, last in found["spans"]:
        hit = units[2 * first : 2 * last].decode("utf-16-le", "surrogatepass")
        assert hit
    assert len(found["text"]) <= 160


@given(st.text(max_size=500))
@settings(max_examples=200, deadline=None)
def test_titles_are_short_lines_without_thoughts(text):
    for title in (first_words(text), cleaned(text)):
        assert len(title) <= 61
        assert "\n" not in title
    assert "<" not in cleaned(text)


def test_rating_correcting_and_deleting_messages(served, visitor):
    chat = visitor.new_chat()
    answer = visitor.ask(chat)
    path = f"chats/{chat}/messages/{answer['id']}"
    assert visitor.patch(path, json={"rating": 1}).json()["rating"] == 1
    assert visitor.patch(path, json={"rating": None}).json()["rating"] is None
    assert visitor.patch(path, json={"rating": 7}).status_code == 422
    assert visitor.patch(path, json={"content": "corrected"}).json()["content"] == "corrected"
    assert visitor.patch(f"chats/{chat}/messages/{answer['parent']}", json={"content": "x"}).status_code == 400
    visitor.ask(chat, "more")
    left = visitor.delete(path).json()
    assert [one["role"] for one in left["messages"]] == ["user"]
    assert left["head"] == answer["parent"]
    assert visitor.delete(path).status_code == 404


def test_temporary_chats_leave_nothing_on_the_disk(served, visitor, fathom_home):
    chat = visitor.new_chat(temporary=True)
    answer = visitor.ask(chat, "whisper secretword")
    assert answer["content"] == "whisper secretword "
    assert visitor.get(f"chats/{chat}").json()["temporary"] is True
    assert visitor.get("chats").json()["chats"] == []
    assert visitor.get("chats", params={"query": "secretword"}).json()["chats"] == []
    assert visitor.post(f"chats/{chat}/share", json={}).status_code == 400
    for path in fathom_home.rglob("*"):
        if path.is_file():
            assert b"secretword" not in path.read_bytes(), path
    assert visitor.delete("chats").status_code == 204
    assert visitor.get(f"chats/{chat}").status_code == 404


def test_shared_chats_are_frozen_read_by_all_and_revoked(served, visitor):
    chat = visitor.new_chat(title="Shown")
    served.engine.script = lambda request: [Answer("Yes.")]
    first = visitor.ask(chat, "shown question")
    shared = visitor.post(f"chats/{chat}/share", json={}).json()
    assert shared["path"] == f"/share/{shared['token']}"
    visitor.ask(chat, "later question")
    with served.visitor() as stranger:
        stranger.headers.pop("X-Fathom-CSRF")
        page = stranger.get(f"shared/{shared['token']}")
        assert page.headers["x-robots-tag"] == "noindex"
        assert [one["content"] for one in page.json()["messages"]] == ["shown question", "Yes."]
        assert page.json()["messages"][1]["id"] == first["id"]
        assert "usage" not in page.json()["messages"][1]
        assert stranger.get("shared/" + "A" * 32).status_code == 404
    assert [one["token"] for one in visitor.get("shares").json()["shares"]] == [shared["token"]]
    assert visitor.delete(f"shares/{shared['token']}").status_code == 204
    assert visitor.get(f"shared/{shared['token']}").status_code == 404
    again = visitor.post(f"chats/{chat}/share", json={"head": first["id"], "thoughts": False}).json()
    visitor.delete(f"chats/{chat}")
    assert visitor.get(f"shared/{again['token']}").status_code == 404


def test_prompts_and_memories(served, visitor):
    made = visitor.post("prompts", json={"title": "Greeting", "text": "Write a greeting for "}).json()
    assert visitor.get("prompts").json()["prompts"] == [made]
    assert visitor.patch(f"prompts/{made['id']}", json={"title": "Hello"}).status_code == 204
    assert visitor.get("prompts").json()["prompts"][0]["title"] == "Hello"
    memory = visitor.post("memories", json={"text": "Is allergic\nto nuts."}).json()
    assert visitor.delete(f"prompts/{memory['id']}").status_code == 404
    chat = visitor.new_chat(title="x")
    visitor.ask(chat)
    assert [one.role for one in served.engine.template.rendered[-1][0]] == ["user"]
    visitor.patch("settings", json={"memory": True})
    visitor.ask(chat, "again")
    system = served.engine.template.rendered[-1][0][0]
    assert system.role == "system"
    assert "- Is allergic to nuts." in system.content
    assert visitor.delete(f"memories/{memory['id']}").status_code == 204
    assert visitor.get("memories").json() == {"memories": []}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_words_are_stored_and_come_back_as_data(served, visitor, text):
    served.engine.script = lambda request: [Answer(text)]
    chat = visitor.new_chat(title=text, folder=text)
    answer = visitor.ask(chat, text)
    stored = visitor.get(f"chats/{chat}")
    assert stored.headers["content-type"] == "application/json"
    assert stored.headers["x-content-type-options"] == "nosniff"
    body = stored.json()
    assert body["title"] == body["folder"] == text
    assert [one["content"] for one in body["messages"]] == [text, text]
    assert answer["content"] == text
    note = visitor.post("prompts", json={"title": text, "text": text}).json()
    assert (note["title"], note["text"]) == (text, text)
    exported = visitor.get(f"chats/{chat}/export", params={"format": "markdown"})
    assert exported.headers["content-disposition"].startswith("attachment")
    assert visitor.get("chats", params={"query": text}).status_code == 200


def test_many_writers_at_once_lose_nothing(library):
    chats = [library.create()["id"] for _ in range(3)]
    errors = []

    def write(number):
        try:
            own = Library(library.database, "anna")
            for turn in range(8):
                message = Message(new_id(), None, "user", float(turn), f"{number} {turn} word", state="running")
                own.add(chats[number % 3], [message])
                message.content += " more"
                own.save(message)
                message.state = "complete"
                own.finish(chats[number % 3], message)
        except Exception as error:
            errors.append(error)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert errors == []
    stored = [message.content for chat in chats for message in library.chat(chat).messages.values()]
    assert sorted(stored) == sorted(f"{number} {turn} word more" for number in range(8) for turn in range(8))
    assert len(library.search("word more")) == 3


def test_a_second_process_writes_beside_the_server(library, tmp_path):
    chat = library.create()["id"]
    file = sqlite3.connect(tmp_path / "app.sqlite3", isolation_level=None)
    file.execute("BEGIN IMMEDIATE")
    done = threading.Event()

    def write():
        library.add(chat, [Message(new_id(), None, "user", 1.0, "waited")])
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert not done.wait(0.2)
    file.execute("COMMIT")
    assert done.wait(10)
    thread.join()
    file.close()


def test_the_file_is_the_owners_only(library, tmp_path):
    assert Path(tmp_path / "app.sqlite3").stat().st_mode & 0o077 == 0


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=200))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_words_are_stored_as_they_are(library, text):
    chat = library.create(title=text)["id"]
    message = Message(new_id(), None, "user", 1.0, text, thought=text)
    library.add(chat, [message])
    stored = library.chat(chat).messages[message.id]
    assert (stored.content, stored.thought) == (text, text)
    library.search(text)
    library.delete(chat)
