"""`fathom users`, and what it changes for `fathom serve`."""

import io
import json

import pytest

from fathom.cli.errors import CommandError
from fathom.cli.main import main
from fathom.cli.serve import server_config
from fathom.cli.settings import resolve

PASSWORD = "correct horse battery\n"


@pytest.fixture
def users(monkeypatch, capsys):
    """Runs the command with this on its standard input; exit code, standard output, standard error."""

    def run(*arguments, typed=PASSWORD):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        code = main(["users", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_users_are_made_listed_changed_and_removed(users):
    code, out, err = users("add", "anna", "--json")
    assert (code, json.loads(out)) == (0, {"name": "anna", "admin": True, "quota": None})
    assert "administrates" in err
    assert users("add", "bert", "--quota", "1000")[0] == 0
    code, out, _ = users("list")
    assert [line.split()[0] for line in out.splitlines()[1:] if line.strip("- ")] == ["anna", "bert"]
    listed = json.loads(users("list", "--json")[1])["users"]
    assert [(user["name"], user["quota"]) for user in listed] == [("anna", None), ("bert", 1000)]
    assert "password" not in listed[0]
    assert users("passwd", "bert", typed="another password\n")[0] == 0
    code, _, err = users("rm", "anna")
    assert code == 1
    assert "administrate" in err
    assert users("rm", "bert")[0] == 0
    code, _, err = users("rm", "anna")
    assert code == 0
    assert "Nobody can log in" in err


@pytest.mark.parametrize(
    ("arguments", "typed", "code", "says"),
    [
        (["add"], PASSWORD, 2, "needs the name"),
        (["list", "anna"], PASSWORD, 2, "takes no name"),
        (["add", "anna"], "short\n", 1, "longer"),
        (["rm", "nobody"], "", 1, "fathom users list"),
        (["passwd", "nobody", "--admin"], PASSWORD, 2, "go with add"),
        (["add", "anna", "--quota", "0"], PASSWORD, 2, None),
    ],
)
def test_what_is_wrong_is_said(users, arguments, typed, code, says):
    try:
        found, _, err = users(*arguments, typed=typed)
    except SystemExit as error:
        found, err = error.code, ""
    assert found == code
    assert says is None or says in err


def test_beyond_the_loopback_users_are_enough_and_the_api_then_asks_for_a_key(users):
    settings = resolve({"host": "0.0.0.0"})
    with pytest.raises(CommandError, match="fathom users add"):
        server_config(settings, allow_public=False)
    users("add", "anna")
    assert server_config(settings, allow_public=False).require_key
    assert not server_config(resolve({}), allow_public=False).require_key


def test_with_users_only_the_api_asks_for_a_key(start_app):
    served = start_app(require_key=True)
    served.context.users.add("anna", "correct horse battery")
    with served.visitor() as visitor:
        assert visitor.get(f"{served.url}/models").status_code == 401
        assert visitor.login("anna", "correct horse battery").status_code == 204
        assert visitor.get("chats").status_code == 200
        assert visitor.get(f"{served.url}/models").status_code == 401
