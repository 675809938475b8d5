"""Templates by strangers: kept in, bounded, and the sandbox lives on."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fathom.text.errors import TemplateError
from fathom.text.sandbox import MAX_SOURCE, TemplateSandbox


@pytest.fixture
def sandbox() -> Iterator[TemplateSandbox]:
    sandbox = TemplateSandbox(max_seconds=3.0, max_output=10_000)
    yield sandbox
    sandbox.close()


HOSTILE = {
    "Python's classes": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
    "a global's globals": ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "SecurityError"),
    "changing what it is given": ("{{ messages.append(1) }}", "SecurityError"),
    "a huge range": ("{% for a in range(10**9) %}{% endfor %}", "OverflowError"),
    "a loop without end": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "longer than 3 s",
    ),
    "a huge number": ("{{ 9 ** (9 ** 9) }}", "longer than 3 s"),
    "doubling": (
        "{% set n = namespace(s='abc') %}{% for a in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "memory",
    ),
    "a huge string": ("{{ 'a' * 10 ** 12 }}", "memory"),
    "much output": ("{% for a in range(99999) %}abc{% endfor %}", "more than 10000 characters"),
    "recursion": ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "calls itself|RecursionError"),
    "deep nesting": ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "failed"),
    "an include": ("{% include '/etc/passwd' %}", "no loader"),
    "a syntax error": ("{% for %}", r"line 1.*TemplateSyntaxError"),
    "its own complaint": ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    "too long": ("x" * (MAX_SOURCE + 1), "65536 is the most"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates(name: str, sandbox: TemplateSandbox) -> None:
    source, message = HOSTILE[name]
    with pytest.raises(TemplateError, match=f"(?s){message}"):
        sandbox.render(source, {"messages": []})
    assert sandbox.render("still {{ x }}", {"x": "here"}) == "still here"


def test_format_strings_see_nothing_private(sandbox: TemplateSandbox) -> None:
    assert sandbox.render("{{ '{0.__class__}'.format(1) }}{{ ''.__class__ }}", {}) == ""


def test_it_works_from_any_thread(sandbox: TemplateSandbox) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda n: sandbox.render("{{ n * 2 }}", {"n": n}), range(40)))
    assert results == [str(2 * n) for n in range(40)]
    with ThreadPoolExecutor(1) as pool, pytest.raises(TemplateError, match="longer than 3 s"):
        pool.submit(sandbox.render, "{{ 9 ** (9 ** 9) }}", {}).result()


def test_what_templates_expect(sandbox: TemplateSandbox) -> None:
    source = (
        "{% generation %}\n{{ x | tojson }}{% endgeneration %}{{ x | tojson(indent=1) | length }}"
        "{% for a in [1, 2, 3] %}{% if a == 2 %}{% break %}{% endif %}{{ a }}{% endfor %}"
    )
    assert sandbox.render(source, {"x": {"b": "<é>", "a": 1}}) == '{"b": "<é>", "a": 1}' + "24" + "1"
    assert sandbox.render("{{ strftime_now('%Y') | length }}", {}) == "4"


def test_its_process_knows_no_secrets(sandbox: TemplateSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FATHOM_API_KEY", "secret")
    sandbox.render("x", {})
    process = sandbox._process._process
    assert process is not None
    environment = Path(f"/proc/{process.pid}/environ")
    if not environment.exists():
        pytest.skip("no /proc here")
    assert b"secret" not in environment.read_bytes()


def test_it_starts_again_after_its_process_died(sandbox: TemplateSandbox) -> None:
    sandbox.render("x", {})
    assert sandbox._process._process is not None
    os.kill(sandbox._process._process.pid, 9)
    sandbox._process._process.wait()
    assert sandbox.render("y", {}) == "y"
