"""The frame: help, versions, exit codes, one-line errors, settings and where they come from."""

import json
import subprocess
import sys

import pytest

from fathom.cli import settings
from fathom.cli.errors import CommandError
from fathom.cli.main import VERBS, main
from fathom.cli.settings import resolve


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0
    assert "example:\n  " in (shown := capsys.readouterr().out)
    assert "--debug" in shown


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    shown = capsys.readouterr().out
    assert left.value.code == 0
    assert all(f"  {verb} " in shown for verb in VERBS)
    assert "example:" in shown


@pytest.mark.parametrize("arguments", [["nosuch"], ["run", "--nosuch"], ["show"], []])
def test_wrong_use_is_exit_code_2(arguments, capsys):
    try:
        code = main(arguments)
    except SystemExit as left:
        code = left.code
    assert code == 2
    assert capsys.readouterr().out == ""


def test_version_and_help_import_nothing_heavy():
    code = (
        "import sys\nfrom fathom.cli.main import main\n"
        "try: main(['--version'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'fastapi', 'pydantic', 'fathom.engine', 'tokenizers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("fathom ")


def test_failures_are_one_line_and_debug_shows_the_rest(fathom):
    short = fathom("show", "nosuch/model")
    assert (short.returncode, short.stdout) == (1, "")
    assert len(short.stderr.strip().splitlines()) == 1
    assert "fathom pull nosuch/model" in short.stderr
    assert "Traceback" in fathom("rm", "nosuch/model", "--debug").stderr


def test_a_reader_that_stops_early_is_no_failure_to_shout_about():
    pipe = subprocess.run(
        f"{sys.executable} -m fathom.cli.main show v3 | head -1", shell=True, capture_output=True, text=True
    )
    assert "Traceback" not in pipe.stderr
    assert "Exception" not in pipe.stderr


def write_config(fathom_home, text):
    fathom_home.mkdir(exist_ok=True)
    (fathom_home / "config.toml").write_text(text)


def test_flag_before_environment_before_file_before_default(fathom_home, monkeypatch):
    def port(**flags):
        found = resolve(flags).resolved["port"]
        return found.value, found.source.split()[0]

    assert port() == (8000, "default")
    write_config(fathom_home, "port = 1111\nhost = '::1'\n")
    assert port() == (1111, "file")
    monkeypatch.setenv("FATHOM_PORT", "2222")
    assert port() == (2222, "environment")
    assert port(port=3333) == (3333, "flag")
    assert resolve()["host"] == "::1"


@pytest.mark.parametrize(
    ("text", "says"),
    [("prot = 1", "unknown setting 'prot'"), ("port = 'x'", "port is 'x'"), ("port = [", "cannot be read")],
)
def test_a_bad_config_file_is_refused_by_name(fathom_home, text, says):
    write_config(fathom_home, text)
    with pytest.raises(CommandError, match=says) as refused:
        resolve()
    assert "config.toml" in str(refused.value)


def test_a_bad_environment_variable_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("FATHOM_PORT", "eighty")
    with pytest.raises(CommandError, match="FATHOM_PORT"):
        resolve()


def test_the_config_file_follows_the_xdg_folders():
    assert str(settings.config_path({"XDG_CONFIG_HOME": "/c"})) == "/c/fathom/config.toml"
    assert str(settings.config_path({"FATHOM_HOME": "/h", "XDG_CONFIG_HOME": "/c"})) == "/h/config.toml"


def test_config_show_says_where_values_come_from_and_hides_the_key(monkeypatch, capsys):
    monkeypatch.setenv("FATHOM_API_KEY", "sk-secret")
    assert main(["config", "show", "--json"]) == 0
    shown = capsys.readouterr().out
    assert json.loads(shown)["api_key"] == {"value": "(set)", "source": "environment FATHOM_API_KEY"}
    assert main(["config", "show"]) == 0
    assert "sk-secret" not in shown + capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        ({"host": "0.0.0.0"}, True),
        ({"host": "127.0.0.1"}, False),
        ({"host": "127.1.2.3"}, False),
        ({"host": "::"}, True),
        ({"host": "192.0.2.7"}, True),
        ({"host": "127.evil.example"}, True),
    ],
)
def test_who_may_be_served_without_a_key(flags, refused):
    from fathom.cli.serve import server_config

    if refused:
        with pytest.raises(CommandError, match="FATHOM_API_KEY"):
            server_config(resolve(flags), allow_public=False)
        assert server_config(resolve(flags), allow_public=True).host == flags["host"]
    else:
        assert server_config(resolve(flags), allow_public=False).on_loopback
