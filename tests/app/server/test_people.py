"""Who may see what: login, sessions, tokens of the page, isolation, administrators, quotas."""

import pytest

from fathom.app.throttle import Throttle
from fathom.app.users import UserError
from fathom.server.errors import ApiError

PASSWORD = "correct horse battery"


@pytest.fixture
def family(served):
    """An administrator and two users."""
    users = served.context.users
    for name in ("anna", "bert", "carl"):
        users.add(name, PASSWORD)
    return served


def logged_in(served, name):
    visitor = served.visitor().__enter__()
    assert visitor.login(name, PASSWORD).status_code == 204
    return visitor


def test_one_person_needs_no_login(visitor):
    session = visitor.get("session").json()
    assert session["user"] == {"id": "me", "name": None, "admin": True, "quota": None}
    assert session["login"] is False
    assert session["capabilities"]["users"] is False
    assert session["model"]["state"] == "ready"
    assert session["settings"]["think"] is False
    assert session["prices"] == {"plan": "deepseek-v4-flash", "compare": "gpt-4-0613"}
    assert visitor.post("login", json={"name": "me", "password": ""}).status_code == 401


def test_changes_need_the_pages_token(served):
    with served.visitor() as visitor:
        del visitor.headers["X-Fathom-CSRF"]
        for method, path in (("POST", "chats"), ("PATCH", "settings"), ("DELETE", "chats"), ("POST", "prompts")):
            refused = visitor.request(method, path, json={})
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "csrf")
        visitor.headers["X-Fathom-CSRF"] = "0" * 64
        assert visitor.post("chats", json={}).status_code == 403
        visitor.renew()
        assert visitor.post("chats", json={}).status_code == 201


def test_pages_from_elsewhere_are_refused(served):
    with served.visitor() as visitor:
        for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
            assert visitor.get("session", headers=headers).status_code == 403
            assert visitor.post("chats", json={}, headers=headers).status_code == 403


def test_with_users_everything_asks_for_a_login(family):
    with family.visitor() as visitor:
        session = visitor.get("session").json()
        assert session["login"] is True
        assert session["user"] is session["settings"] is session["data"] is session["csrf"] is None
        for path in ("chats", "folders", "prompts", "memories", "shares", "export", "admin/users", "files/" + "0" * 32):
            refused = visitor.get(path)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "login_required"), path
        assert visitor.post("chats", json={}).status_code == 401


def test_login_gives_a_session_that_scripts_cannot_read(family):
    with family.visitor() as visitor:
        assert visitor.post("login", json={"name": "anna", "password": "wrong"}).status_code == 401
        assert visitor.post("login", json={"name": "nobody", "password": PASSWORD}).status_code == 401
        response = visitor.login("Anna ", PASSWORD)
        cookie = response.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert "path=/app/api" in cookie
        session = visitor.get("session").json()
        assert (session["user"]["name"], session["user"]["admin"]) == ("anna", True)
        assert visitor.post("logout", json={}).status_code == 204
        assert visitor.get("session").json()["login"] is True
    with family.visitor() as visitor:
        visitor.cookies.set("fathom_session", "guess")
        assert visitor.get("chats").status_code == 401


def test_the_token_of_one_session_is_of_no_use_in_another(family):
    anna, bert = logged_in(family, "anna"), logged_in(family, "bert")
    bert.headers["X-Fathom-CSRF"] = anna.headers["X-Fathom-CSRF"]
    assert bert.post("chats", json={}).status_code == 403


def test_what_is_anothers_does_not_exist(family):
    anna, bert = logged_in(family, "anna"), logged_in(family, "bert")
    chat = anna.new_chat(title="private")
    family.engine.hold.clear()
    begun = anna.begin(chat, content="hidden words")
    run, message = begun["run"]["id"], begun["answer"]["id"]
    shared = anna.post(f"chats/{chat}/share", json={}).json()["token"]
    note = anna.post("prompts", json={"title": "t", "text": "t"}).json()["id"]
    refused = [
        bert.get(f"chats/{chat}"),
        bert.patch(f"chats/{chat}", json={"title": "x"}),
        bert.delete(f"chats/{chat}"),
        bert.get(f"chats/{chat}/export"),
        bert.post(f"chats/{chat}/answers", json={"content": "x"}),
        bert.post(f"chats/{chat}/answers", json={"question": begun["user"]["id"]}),
        bert.post(f"chats/{chat}/share", json={}),
        bert.patch(f"chats/{chat}/messages/{message}", json={"rating": 1}),
        bert.delete(f"chats/{chat}/messages/{message}"),
        bert.get(f"runs/{run}/events"),
        bert.post(f"runs/{run}/stop"),
        bert.post(f"runs/{run}/answer-now"),
        bert.delete(f"shares/{shared}"),
        bert.patch(f"prompts/{note}", json={"text": "x"}),
        bert.delete(f"prompts/{note}"),
    ]
    assert [one.status_code for one in refused] == [404] * len(refused)
    mine = bert.new_chat()
    assert bert.patch(f"chats/{mine}", json={"head": message}).status_code == 404
    assert bert.post(f"chats/{mine}/answers", json={"content": "x", "parent": message}).status_code == 404
    assert bert.delete(f"chats/{mine}/messages/{message}").status_code == 404
    assert [one["id"] for one in bert.get("chats").json()["chats"]] == [mine]
    assert bert.get("chats", params={"query": "hidden"}).json()["chats"] == []
    assert bert.get("shares").json()["shares"] == bert.get("prompts").json()["prompts"] == []
    assert b"hidden" not in bert.get("export").content
    assert bert.delete("chats").status_code == 204
    family.engine.hold.set()
    list(anna.events(run))
    assert [one["content"] for one in anna.messages(chat)] == ["hidden words", "hidden words "]


def test_names_of_things_cannot_be_guessed(visitor):
    names = {visitor.new_chat() for _ in range(20)}
    assert len(names) == 20
    assert all(len(name) == 32 for name in names)
    run = visitor.begin(names.pop(), content="x")["run"]["id"]
    assert len(run) == 32


def test_the_first_user_takes_over_what_was_there(served, visitor):
    chat = visitor.new_chat(title="from before")
    visitor.ask(chat)
    anna = served.context.users.add("anna", PASSWORD)
    assert anna.admin
    assert visitor.get("chats").status_code == 401
    served.context.users.add("bert", PASSWORD)
    assert [one["title"] for one in logged_in(served, "anna").get("chats").json()["chats"]] == ["from before"]
    assert logged_in(served, "bert").get("chats").json()["chats"] == []
    assert len(logged_in(served, "anna").messages(chat)) == 2


def test_passwords_change_and_end_the_other_sessions(family):
    here, there = logged_in(family, "bert"), logged_in(family, "bert")
    assert here.post("password", json={"old": "wrong", "new": "another password"}).status_code == 403
    assert here.post("password", json={"old": PASSWORD, "new": "short"}).status_code == 400
    assert here.post("password", json={"old": PASSWORD, "new": "another password"}).status_code == 204
    assert here.get("chats").status_code == 200
    assert there.get("chats").status_code == 401
    again = family.visitor().__enter__()
    assert again.login("bert", "another password").status_code == 204
    assert again.post("logout", json={"everywhere": True}).status_code == 204
    assert here.get("chats").status_code == 401


def test_administrators_manage_users_and_others_do_not(family):
    anna, bert = logged_in(family, "anna"), logged_in(family, "bert")
    assert bert.get("admin/users").status_code == 403
    assert bert.post("admin/users", json={"name": "x", "password": PASSWORD}).status_code == 403
    made = anna.post("admin/users", json={"name": "Dora", "password": PASSWORD, "quota": 5}).json()
    assert made == {**made, "name": "dora", "admin": False, "quota": 5, "used": 0}
    assert anna.post("admin/users", json={"name": "DORA", "password": PASSWORD}).status_code == 400
    listed = {user["name"]: user for user in anna.get("admin/users").json()["users"]}
    assert set(listed) == {"anna", "bert", "carl", "dora"}
    assert not any("password" in user for user in listed.values())
    assert anna.patch(f"admin/users/{made['id']}", json={"quota": None, "admin": True}).json()["admin"] is True
    assert anna.patch(f"admin/users/{made['id']}", json={"admin": False}).status_code == 200
    assert anna.patch(f"admin/users/{listed['anna']['id']}", json={"admin": False}).status_code == 400
    assert anna.delete(f"admin/users/{listed['anna']['id']}").status_code == 400
    bert.new_chat(title="berts")
    assert anna.delete(f"admin/users/{listed['bert']['id']}").status_code == 204
    assert bert.get("chats").status_code == 401
    assert anna.delete(f"admin/users/{listed['bert']['id']}").status_code == 404


def test_accounts_can_be_left(family):
    carl = logged_in(family, "carl")
    carl.new_chat(title="carls")
    assert carl.request("DELETE", "account", json={"password": "wrong"}).status_code == 403
    assert carl.request("DELETE", "account", json={"password": PASSWORD}).status_code == 204
    assert carl.get("chats").status_code == 401
    assert family.visitor().__enter__().login("carl", PASSWORD).status_code == 401


def test_after_the_last_user_the_door_stays_shut(served):
    user = served.context.users.add("anna", PASSWORD)
    served.context.users.remove(user.id)
    with served.visitor() as visitor:
        assert visitor.get("session").json()["login"] is True
        assert visitor.get("chats").status_code == 401


def test_quotas_come_from_the_ledger(family):
    bert = logged_in(family, "bert")
    users = family.context.users
    users.change(users.named("bert").id, {"quota": 15})
    chat = bert.new_chat(title="x")
    bert.ask(chat, "hello there")  # 11 tokens, and 2 of the answer
    assert bert.get("session").json()["user"]["quota"] == {"tokens": 15, "used": 13}
    bert.ask(chat, "more words")
    refused = bert.post(f"chats/{chat}/answers", json={"content": "and more"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota")
    anna = logged_in(family, "anna")
    assert next(one["used"] for one in anna.get("admin/users").json()["users"] if one["name"] == "bert") == 25
    anna.ask(anna.new_chat(title="x"))


def test_who_guesses_passwords_has_to_wait(family):
    with family.visitor() as visitor:
        codes = [visitor.post("login", json={"name": "anna", "password": f"guess {n}"}).status_code for n in range(7)]
        assert codes == [401] * 5 + [429] * 2 or codes == [401] * 6 + [429]
        refused = visitor.post("login", json={"name": "anna", "password": PASSWORD})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "throttled")
        assert int(refused.headers["retry-after"]) > 0
        assert visitor.login("bert", PASSWORD).status_code == 204


def test_the_throttle_doubles_is_bounded_and_forgives():
    throttle = Throttle(free=2, first=100, most=300, kept=10)
    door = ("1.2.3.4", "anna")
    throttle.wrong(door)
    throttle.check(door)
    throttle.wrong(door)
    with pytest.raises(ApiError) as first:
        throttle.check(door)
    for _ in range(5):
        throttle.wrong(door)
    with pytest.raises(ApiError) as later:
        throttle.check(door)
    assert 90 < first.value.retry_after <= 101 < later.value.retry_after <= 301
    throttle.right(door)
    throttle.check(door)
    for number in range(100):
        throttle.wrong((str(number), "x"))
    assert len(throttle._wrong) == 10


@pytest.mark.parametrize(
    ("name", "password"), [("", PASSWORD), ("x" * 65, PASSWORD), ("a\nb", PASSWORD), ("a", "short")]
)
def test_names_and_passwords_that_cannot_be(served, name, password):
    with pytest.raises(UserError):
        served.context.users.add(name, password)


def test_passwords_are_kept_as_argon2id(family, fathom_home):
    data = b"".join(path.read_bytes() for path in fathom_home.rglob("app.sqlite3*"))
    assert b"$argon2id$" in data
    assert PASSWORD.encode() not in data


def test_a_server_with_a_key_asks_the_page_for_it(start_app):
    served = start_app(api_key="a-long-secret")
    with served.visitor() as visitor:
        refused = visitor.get("chats")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "key_required")
        session = visitor.get("session").json()
        assert (session["key"], session["login"], session["user"]) == (True, False, None)
    with served.visitor(headers={"Authorization": "Bearer a-long-secret"}) as visitor:
        assert visitor.new_chat()


def test_each_key_has_its_own_chats(start_app, tmp_path):
    from fathom.server.accounts import keys
    from fathom.server.accounts.database import open_database

    served = start_app()
    database = open_database(tmp_path / "accounts.sqlite3")
    given = {name: keys.create(database, name) for name in ("one", "two")}
    one, two = (served.visitor(headers={"Authorization": f"Bearer {key}"}).__enter__() for key in given.values())
    chat = one.new_chat(title="of one")
    assert [found["id"] for found in one.get("chats").json()["chats"]] == [chat]
    assert two.get("chats").json()["chats"] == []
    assert two.get("session").json()["user"]["admin"] is False
    with served.visitor() as nobody:
        assert nobody.get("chats").status_code == 401
