"""From text to shards: counts that add up, the same bytes however they were made, and going on after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from fathom.data.errors import DataError, RecipeError, ShardError, SourceError
from fathom.data.fim import FillInMiddle
from fathom.data.prepare import prepare
from fathom.data.recipe import read_recipe
from fathom.data.shards import read_index
from fathom.text import Tokenizer

Corpus = Callable[[Path], Path]


def made(recipe: Path, *overrides: str, processes: int = 1) -> Path:
    return prepare(read_recipe(recipe, overrides), recipe.parent, processes=processes)


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".prepared.json")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def documents(folder: Path, split: str) -> list[list[int]]:
    found = []
    for source in read_index(folder).sources:
        for shard in getattr(source, split):
            tokens = np.fromfile(folder / f"{shard.file}.tokens", dtype="<u2").tolist()
            offsets = np.load(folder / f"{shard.file}.offsets.npy")
            assert offsets[-1] == len(tokens)
            found += [tokens[a:b] for a, b in pairwise(offsets)]
    return found


def texts_of(folder: Path, split: str) -> list[str]:
    """The documents as text again, those told middle last put in order."""
    tokenizer = Tokenizer.from_folder(folder / "tokenizer")
    fill = FillInMiddle.of(tokenizer)
    texts = []
    for ids in documents(folder, split):
        assert (ids[0], ids[-1]) == (tokenizer.bos_id, tokenizer.eos_id)
        parts = fill.restore(ids[1:-1])
        in_order = ids[1:-1] if parts is None else [*parts[0], *parts[1], *parts[2]]
        texts.append(tokenizer.decode(in_order))
    return texts


def test_documents_come_back_once_and_every_drop_is_counted(
    tmp_path: Path, make_corpus: Corpus, english: list[str], chinese: list[str]
) -> None:
    folder = made(make_corpus(tmp_path), "fim.rate=0.5")
    assert sorted(texts_of(folder, "train") + texts_of(folder, "validation")) == sorted([*english, *chinese])
    card = json.loads((folder / "card.json").read_text())
    # Ten stories stand in both sources, one row is a near copy, one is short, one is not JSON.
    assert card["dropped"] == {
        "duplicate: exact": 10,
        "duplicate: near": 1,
        "prose: fewest_words": 1,
        "unreadable": 1,
    }
    kept = card["train"]["documents"] + card["validation"]["documents"]
    assert card["documents_read"] == kept + sum(card["dropped"].values())
    assert card["train"]["tokens"] == read_index(folder).tokens("train")
    assert 0.3 < card["train"]["fim_documents"] / card["train"]["documents"] < 0.7
    assert not (folder / ".work").exists()
    assert "| stories | CC0 |" in (folder / "card.md").read_text()


def test_bytes_do_not_depend_on_processes(tmp_path: Path, make_corpus: Corpus) -> None:
    one = made(make_corpus(tmp_path / "a"), processes=1)
    three = made(make_corpus(tmp_path / "b"), processes=3)
    assert contents(one) == contents(three)
    assert len(read_index(one).sources[1].train) > 1  # several shards, or the comparison would say little


def test_finished_data_are_left_alone_and_other_recipes_refused(tmp_path: Path, make_corpus: Corpus) -> None:
    recipe = make_corpus(tmp_path)
    folder = made(recipe)
    before = (folder / "index.json").stat().st_mtime_ns
    assert made(recipe) == folder
    assert (folder / "index.json").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="--overwrite"):
        made(recipe, "fim.rate=0.9")
    (tmp_path / "rows.jsonl").write_text((tmp_path / "rows.jsonl").read_text() + "\n")
    with pytest.raises(DataError, match="changed since"):
        made(recipe)
    prepare(read_recipe(recipe, ["fim.rate=0"]), tmp_path, processes=1, overwrite=True)
    assert json.loads((folder / "card.json").read_text())["train"]["fim_documents"] == 0


PREPARE = """
import sys
from pathlib import Path
from fathom.data.prepare import prepare
from fathom.data.recipe import read_recipe
if __name__ == "__main__":
    recipe = Path(sys.argv[1])
    prepare(read_recipe(recipe), recipe.parent, processes=int(sys.argv[2]))
"""


def _kill_when(folder: Path, script: Path, recipe: Path, processes: int, pattern: str) -> bool:
    """Start preparing and kill -9 as soon as a file of the pattern lies there; False when it was done first."""
    process = subprocess.Popen([sys.executable, str(script), str(recipe), str(processes)])
    try:
        while process.poll() is None:
            if any(folder.glob(pattern)):
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.001)
        return False
    finally:
        process.kill()
        process.wait()


def test_killed_at_every_stage_and_resumed_gives_the_same_bytes(tmp_path: Path, make_corpus: Corpus) -> None:
    whole = made(make_corpus(tmp_path / "whole"))
    recipe = make_corpus(tmp_path / "killed")
    script = tmp_path / "prepare.py"
    script.write_text(PREPARE)
    folder = recipe.parent / "shards"
    stages = (".work/clean/*2.json", ".work/fates.npy", ".work/tokens/*3.json", ".work/shards/*.json")
    killed = [_kill_when(folder, script, recipe, 1, stage) for stage in stages]
    killed.append(_kill_when(folder, script, recipe, 2, ".work/shards/train-rows*.json"))
    assert any(killed[:3])
    assert contents(made(recipe)) == contents(whole)


def _runs(pid: str) -> bool:
    """Whether a process is there and no zombie (which some containers never take away)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are listed by Linux only")
def test_workers_end_with_a_killed_parent(tmp_path: Path, make_corpus: Corpus) -> None:
    recipe = make_corpus(tmp_path / "killed")
    script = tmp_path / "prepare.py"
    script.write_text(PREPARE)
    process = subprocess.Popen([sys.executable, str(script), str(recipe), "2"])
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        while process.poll() is None and not any((recipe.parent / "shards").glob(".work/clean/*.json")):
            time.sleep(0.001)
        workers = children.read_text().split()
        assert len(workers) >= 2
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 30
    while any(_runs(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_unfinished_folder_is_not_read(tmp_path: Path, make_corpus: Corpus) -> None:
    folder = made(make_corpus(tmp_path))
    (folder / "index.json").unlink()
    with pytest.raises(ShardError, match="fathom data prepare"):
        read_index(folder)


def test_contaminated_documents_are_dropped_and_reported(
    tmp_path: Path, make_corpus: Corpus, english: list[str]
) -> None:
    recipe = make_corpus(tmp_path)
    sentence = " ".join(english[3].replace("\n", " ").split()[4:22])
    items = [{"question": f"Complete this: {sentence.upper()}!"}, {"question": "What is it?"}]
    (tmp_path / "eval.jsonl").write_text("\n".join(map(json.dumps, items)))
    with recipe.open("a") as file:
        file.write('\n[[decontaminate.evaluations]]\nname = "quiz"\npaths = ["eval.jsonl"]\nfields = ["question"]\n')
    folder = made(recipe)
    assert json.loads((folder / "card.json").read_text())["dropped"]["contaminated: quiz"] == 1
    assert english[3] not in texts_of(folder, "train") + texts_of(folder, "validation")
    assert "quiz" in (folder / "card.md").read_text()


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("fim.rat=0.1", RecipeError, "did you mean 'rate'"),
        ("fim.rate=2", RecipeError, "between 0 and 1"),
        ("validation='a'", RecipeError, "should be float"),
        ("sources.rows.format='json'", RecipeError, "did you mean 'jsonl'"),
        ("sources.rows.weight=1", RecipeError, "either all sources"),
        ("sources.rows.field='body.tex'", SourceError, "did you mean 'text'"),
        ("sources.stories.paths=['nowhere']", SourceError, "finds no file"),
        ("sources.nothing.epochs=2", RecipeError, "nothing in the list is named"),
        ("sources.rows.languages=['ko']", None, ""),
    ],
)
def test_mistakes_are_told_by_name(
    tmp_path: Path, make_corpus: Corpus, override: str, error: type[Exception] | None, message: str
) -> None:
    recipe = make_corpus(tmp_path)
    if error is None:
        assert "language: zh" in json.loads((made(recipe, override) / "card.json").read_text())["dropped"]
        return
    with pytest.raises(error, match=message):
        made(recipe, override)


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path, make_corpus: Corpus) -> None:
    with pytest.raises(DataError, match="fewest_words"):
        made(make_corpus(tmp_path), "quality.prose.fewest_words=5000")


def test_parquet_and_compressed_lines_give_the_same_tokens(
    tmp_path: Path, make_corpus: Corpus, english: list[str]
) -> None:
    import gzip

    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    lines = "\n".join(json.dumps({"text": text}) for text in english)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/a.jsonl").write_text(lines)
    (tmp_path / "c/b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    parquet.write_table(pyarrow.table({"text": english}), tmp_path / "c/c.parquet", row_group_size=17)
    separated = "<|next|>".join(english)
    (tmp_path / "c/d.txt").write_text(separated)
    found = []
    for name, settings in {
        "a.jsonl": {"format": "jsonl"},
        "b.jsonl.gz": {"format": "jsonl"},
        "c.parquet": {"format": "parquet"},
        "d.txt": {"separator": "<|next|>"},
    }.items():
        recipe = make_corpus(tmp_path / name)
        sets = [f"sources.stories.{key}='{value}'" for key, value in settings.items()]
        found.append(documents(made(recipe, f"sources.stories.paths=['../c/{name}']", *sets), "train"))
    assert found[0] == found[1] == found[2] == found[3]
