"""The loader against a plain list of tokens: every token once, whatever the ranks; resumed runs equal whole ones."""

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fathom.data.errors import DataError, LoaderStateError, ShardError
from fathom.data.loader import Loader
from fathom.data.mixture import Ingredient, Schedule, rows_in_pass
from fathom.data.permutation import Permutation
from fathom.data.prepare import prepare
from fathom.data.recipe import read_recipe
from fathom.data.shards import read_index


def write_shards(folder: Path, sources: dict[str, list[list[list[int]]]], **mixture: dict[str, float]) -> Path:
    """Shards written by hand: source -> shards -> documents -> tokens."""
    (folder / "train").mkdir(parents=True)
    entries = []
    for name, shards in sources.items():
        notes = []
        for number, documents in enumerate(shards):
            file = f"train/{name}-{number:05d}"
            tokens = np.array([token for document in documents for token in document], dtype="<u2")
            tokens.tofile(folder / f"{file}.tokens")
            np.save(folder / f"{file}.offsets.npy", np.cumsum([0, *map(len, documents)], dtype=np.int64))
            notes.append(
                {"file": file, "tokens": len(tokens), "documents": len(documents), "sha256": f"{name}{number}"}
            )
        entry = {"name": name, "weight": None, "epochs": 1.0, "train": notes, "validation": []}
        entries.append(entry | mixture.get(name, {}))
    index = {"format": "fathom-shards", "version": 1, "dtype": "uint16", "vocab_size": 65536, "tokenizer_sha256": ""}
    (folder / "index.json").write_text(json.dumps(index | {"sources": entries}))
    return folder


def numbered(count: int, first: int = 0, document: int = 7) -> list[list[int]]:
    """Documents of different lengths whose tokens are all different."""
    tokens = list(range(first, first + count))
    documents = []
    while tokens:
        length = 1 + (document * len(documents)) % 11
        documents.append(tokens[:length])
        tokens = tokens[length:]
    return documents


@pytest.fixture
def two_sources(tmp_path: Path) -> Path:
    """960 tokens in two shards and 480 in one, all different."""
    return write_shards(tmp_path / "shards", {"a": [numbered(500), numbered(460, 500)], "b": [numbered(480, 2000)]})


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ranks=st.integers(1, 6), per_rank=st.integers(1, 5), seed=st.integers(0, 2**31), data=st.data())
def test_every_token_is_an_input_once_an_epoch_for_any_ranks(
    two_sources: Path, ranks: int, per_rank: int, seed: int, data: st.DataObject
) -> None:
    length = data.draw(st.sampled_from([1, 3, 8, 16, 30, 96, 480]))
    loaders = [Loader(two_sources, length, seed=seed, rank=rank, ranks=ranks) for rank in range(ranks)]
    rows = ranks * per_rank
    inputs: list[np.ndarray] = []
    for _ in range(-(-loaders[0].rows_per_pass // rows)):
        batches = [loader.next(rows).tokens_BT for loader in loaders]
        assert all(batch.shape == (per_rank, length + 1) for batch in batches)
        by_rank = np.stack(batches, axis=1).reshape(rows, length + 1)  # the batch in the order of the run
        inputs.extend(by_rank[:, :-1])
    first_pass = np.concatenate(inputs[: loaders[0].rows_per_pass])
    assert sorted(first_pass.tolist()) == [*range(960), *range(2000, 2480)]


def test_targets_are_the_tokens_that_follow(two_sources: Path) -> None:
    loader = Loader(two_sources, 16, lookahead=3)
    tokens = loader.next(loader.rows_per_pass).tokens_BT
    ends = {960: 0, 2480: 2000}  # after its last token a source begins again
    for row in tokens.tolist():
        assert row[1:] == [ends.get(token + 1, token + 1) for token in row[:-1]]


def test_what_does_not_fill_a_row_opens_the_next_pass(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "odd", {"a": [numbered(103)]})
    loader = Loader(folder, 10)
    assert loader.rows_per_pass == 10
    seen = [loader.next(10).tokens_BT[:, :-1].ravel().tolist() for _ in range(3)]
    assert sorted(seen[0]) == list(range(100))
    assert sorted(seen[1]) == sorted([100, 101, 102, *range(97)])
    assert Counter(token for part in seen for token in part).most_common(1)[0][1] == 3
    assert seen[0] != sorted(seen[0])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stop=st.integers(0, 40), ranks=st.sampled_from([1, 2, 3, 4, 6]))
def test_resumed_with_other_ranks_equals_uninterrupted(two_sources: Path, stop: int, ranks: int) -> None:
    whole = Loader(two_sources, 16, seed=5)
    expected = [whole.next(12).tokens_BT for _ in range(stop + 5)]
    first = Loader(two_sources, 16, seed=5)
    for _ in range(stop):
        first.next(12)
    state = json.loads(json.dumps(first.state()))
    resumed = [Loader(two_sources, 16, seed=5, rank=rank, ranks=ranks) for rank in range(ranks)]
    for loader in resumed:
        loader.load_state(state)
    for step in range(stop, stop + 5):
        rows = np.stack([loader.next(12).tokens_BT for loader in resumed], axis=1).reshape(12, -1)
        np.testing.assert_array_equal(rows, expected[step])
    assert resumed[0].state() == whole.state()


@pytest.mark.parametrize(
    ("other", "length"), [({"seed": 6}, 16), ({"weights": {"a": 1, "b": 3}}, 16), ({}, 32), ({"shuffle": False}, 16)]
)
def test_a_state_of_another_run_is_refused(two_sources: Path, other: dict[str, object], length: int) -> None:
    state = Loader(two_sources, 16, seed=5).state()
    with pytest.raises(LoaderStateError, match="start the loader anew"):
        Loader(two_sources, length, **({"seed": 5} | other)).load_state(state)
    with pytest.raises(LoaderStateError, match="version"):
        Loader(two_sources, 16).load_state({"version": 2})


def test_document_ids_change_exactly_where_documents_end(two_sources: Path) -> None:
    firsts = {document[0] for document in (*numbered(500), *numbered(460, 500), *numbered(480, 2000))}
    loader = Loader(two_sources, 50, document_ids=True)
    batch = loader.next(loader.rows_per_pass)
    assert batch.documents_BT is not None
    for tokens, documents in zip(batch.tokens_BT.tolist(), batch.documents_BT.tolist(), strict=True):
        assert documents[0] == 0
        steps = [after - before for before, after in pairwise(documents)]
        assert steps == [int(token in firsts) for token in tokens[1:]]


def test_weights_are_honoured_and_the_scarcest_source_bounds_the_pass(tmp_path: Path) -> None:
    mixture = {"a": {"weight": 3.0}, "b": {"weight": 1.0, "epochs": 2.0}}
    folder = write_shards(tmp_path / "w", {"a": [numbered(9600)], "b": [numbered(800, 20000)]}, **mixture)
    loader = Loader(folder, 16)
    sources = np.concatenate([loader.next(25).sources_B for _ in range(16)])
    assert loader.rows_per_pass == 400  # 1600 tokens of b, 4800 of a
    assert np.bincount(sources).tolist() == [300, 100]
    assert 20 <= np.count_nonzero(sources[:200] == 1) <= 80  # mixed, not one after the other
    other = Loader(folder, 16, weights={"a": 1, "b": 1})
    assert np.bincount(other.next(other.rows_per_pass).sources_B).tolist() == [100, 100]


@settings(deadline=None)
@given(
    budgets=st.lists(
        st.tuples(st.integers(200, 10**9), st.floats(0.5, 8), st.floats(0.01, 100)), min_size=1, max_size=6
    )
)
def test_no_source_is_repeated_beyond_its_epochs(budgets: list[tuple[int, float, float]]) -> None:
    ingredients = [Ingredient(str(n), *budget) for n, budget in enumerate(budgets)]
    try:
        rows = rows_in_pass(ingredients, 100)
    except DataError:
        return
    assert all(count * 100 <= i.tokens * i.epochs + 1 for count, i in zip(rows, ingredients, strict=True))
    assert any((count + 1) * 100 >= i.tokens * i.epochs - 1 for count, i in zip(rows, ingredients, strict=True))


@settings(deadline=None)
@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_a_permutation_is_one_to_one(size: int, key: int) -> None:
    assert sorted(map(Permutation(size, key), range(size))) == list(range(size))


def test_a_permutation_mixes() -> None:
    """Places after the shuffle are uncorrelated with places before, and neighbours part."""
    order = np.array([Permutation(10_000, 123)(index) for index in range(10_000)])
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.05
    assert [Permutation(2**40, 1)(index) for index in range(50)] != [
        Permutation(2**40, 2)(index) for index in range(50)
    ]


def test_rows_lie_end_to_end_over_passes() -> None:
    schedule = Schedule((3, 2), 10, seed=0)
    starts = sorted((row.source, row.start) for row in (schedule.row(number) for number in range(10)))
    assert starts == [(0, 10 * n) for n in range(6)] + [(1, 10 * n) for n in range(4)]


def test_damage_and_misuse_are_errors(two_sources: Path) -> None:
    with pytest.raises(DataError, match="does not divide"):
        Loader(two_sources, 16, ranks=2).next(3)
    with pytest.raises(DataError, match="less than one row"):
        Loader(two_sources, 500)
    with pytest.raises(ShardError, match="split 'validation'"):
        Loader(two_sources, 16, split="validation")
    with pytest.raises(DataError, match="exactly the sources"):
        Loader(two_sources, 16, weights={"a": 1.0})
    tokens = two_sources / "train/a-00001.tokens"
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(ShardError, match="should have 920 bytes"):
        Loader(two_sources, 16).next(90)


def test_loads_what_prepare_makes(tmp_path: Path, make_corpus: Callable[[Path], Path]) -> None:
    recipe = make_corpus(tmp_path)
    folder = prepare(read_recipe(recipe), tmp_path, processes=1)
    index = read_index(folder)
    loader = Loader(folder, 32, document_ids=True)
    stories, rows = (sum(shard.tokens for shard in source.train) for source in index.sources)
    assert loader.rows_per_pass == stories // 32 + 2 * rows // 32
    batch = loader.next(loader.rows_per_pass)
    assert batch.documents_BT is not None
    begins = (batch.tokens_BT[:, 1:] == index.begin_id).sum()
    assert begins == np.diff(batch.documents_BT, axis=1).sum() > 100
    held_out = Loader(folder, 32, split="validation", shuffle=False)
    assert set(held_out.source_names) | set(held_out.left_out) == {"stories", "rows"}
    np.testing.assert_array_equal(held_out.rows(range(3)).tokens_BT, held_out.rows(range(3)).tokens_BT)
