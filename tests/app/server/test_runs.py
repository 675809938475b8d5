"""Whose answers are dead: only those of a server that runs no longer."""

from fathom.app.database import Database
from fathom.app.library import Library
from fathom.app.messages import Message, new_id
from fathom.app.runs import Owner, mark_interrupted


def test_only_the_answers_of_dead_servers_are_interrupted(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'app.sqlite3'}")
    library = Library(database, "me")
    chat = library.create()["id"]
    living, here = Owner(tmp_path / "servers"), Owner(tmp_path / "servers")
    dead = Owner(tmp_path / "servers")
    names = {
        "living": living.name,
        "dead": dead.name,
        "never": "0" * 16,
        "nobody": None,
        "hostile": "../../app.sqlite3",
    }
    messages = {}
    for name, owner in names.items():
        messages[name] = Message(new_id(), None, "assistant", 1.0, name, state="running", owner=owner)
    messages["complete"] = Message(new_id(), None, "assistant", 1.0, "complete", owner=dead.name)
    library.add(chat, messages.values())
    dead._file.close()  # as the system does for a process that is killed
    assert mark_interrupted(database, here) == 4
    states = {message.content: message.state for message in library.chat(chat).messages.values()}
    assert states == {
        "living": "running",
        "dead": "interrupted",
        "never": "interrupted",
        "nobody": "interrupted",
        "hostile": "interrupted",
        "complete": "complete",
    }
    assert mark_interrupted(database, here) == 0
    assert (tmp_path / "app.sqlite3").exists()
    for owner in (living, here):
        owner.close()
    database.close()
