"""The same app over PostgreSQL: chats, search, people, a restart."""

import pytest

from fathom.app.database import Database
from fathom.app.library import Library
from fathom.app.messages import Message, new_id
from fathom.text import Answer

pytestmark = pytest.mark.slow


def test_the_app_over_postgresql(start_app, postgres, monkeypatch):
    monkeypatch.setenv("FATHOM_DATABASE_URL", postgres)
    served = start_app()
    served.engine.script = lambda request: [Answer("Lentil soup, 小扁豆汤.")]
    with served.visitor() as visitor:
        chat = visitor.new_chat(folder="recipes")
        answer = visitor.ask(chat, "What shall I cook?", think=True)
        assert answer["content"] == "Lentil soup, 小扁豆汤."
        for query in ("lentil", "小扁豆", "cook"):
            found = visitor.get("chats", params={"query": query}).json()["chats"]
            assert [one["id"] for one in found] == [chat], query
        assert visitor.get("chats", params={"query": "100%"}).json()["chats"] == []
        token = visitor.post(f"chats/{chat}/share", json={}).json()["token"]
        assert visitor.get(f"shared/{token}").json()["messages"][1]["content"] == answer["content"]
        exported = visitor.get("export").content
        assert visitor.get("folders").json()["folders"] == [{"name": "recipes", "chats": 1}]
    served.context.users.add("anna", "correct horse battery")
    served.stop()
    with start_app().visitor() as visitor:
        assert visitor.get("chats").status_code == 401
        assert visitor.login("anna", "correct horse battery").status_code == 204
        assert [one["id"] for one in visitor.get("chats").json()["chats"]] == [chat]
        assert visitor.post("import", files={"file": ("x.json", exported)}).json()["imported"] == 1
        assert visitor.delete("chats").status_code == 204
        assert visitor.get("chats").json()["chats"] == []


def test_pages_and_deletion_in_postgresql(postgres):
    library = Library(Database(postgres), "bert")
    made = [library.create(title=f"{number}")["id"] for number in range(5)]
    found, cursor = library.page(folder=None, before=None, limit=3)
    rest, _ = library.page(folder=None, before=cursor, limit=3)
    assert [one["id"] for one in (*found, *rest)] == made[::-1]
    question = Message(new_id(), None, "user", 1.0, "words")
    library.add(made[0], [question])
    assert library.delete_message(made[0], question.id) == {question.id}
    library.database.close()
