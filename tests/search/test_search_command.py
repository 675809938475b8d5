"""`fathom index` and `fathom search`, as a person uses them."""

import json

from fathom.cli.main import main


def test_add_search_list_and_remove(tmp_path, capsys):
    assert main(["search", "lentils"]) == 1
    assert "Your index is empty" in capsys.readouterr().err
    (tmp_path / "soup.md").write_text("# Lentil soup\n\nCook red lentils.")
    assert main(["index", "add", str(tmp_path / "soup.md")]) == 0
    assert "1 added" in capsys.readouterr().out
    assert main(["search", "lentils", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["number"], one["title"], one["engine"]) for one in found["sources"]] == [
        (1, "Lentil soup", "own documents")
    ]
    assert main(["search", "zebras"]) == 1
    assert "nothing found (own documents)" in capsys.readouterr().err
    assert main(["index", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["places"][0]["documents"] == 1
    assert main(["index", "rm", str(tmp_path / "soup.md")]) == 0
    assert main(["index", "rm", str(tmp_path / "soup.md")]) == 1
    assert "is not in the index" in capsys.readouterr().err


def test_an_instance_of_searxng_by_url(site, capsys):
    site.json("/search", {"results": [{"url": "http://127.0.0.1/private", "title": "Inside", "content": "a snippet"}]})
    assert main(["search", "x1", "--searxng", site.url, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sources"][0]["snippet"] == "a snippet"
    assert "not an address of the public internet" in found["notes"][0]["text"]


def test_private_pages_are_indexed_only_on_demand(site, capsys):
    site.html("/", "<title>Mine</title><p>A page about quinces and jam.</p>")
    assert main(["index", "add", site.url]) == 1
    capsys.readouterr()
    assert main(["index", "add", site.url, "--allow-private"]) == 0
    assert main(["search", "quinces"]) == 0
    assert "Mine" in capsys.readouterr().out
