"""Word vectors and the ranking by similar words: equal to a readable twin, honest where nothing is near."""

import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.search.index import Document, Index
from fathom.search.similarity import LEAST_SIMILARITY, LENGTH_POWER, SimilarPassages
from fathom.search.terms import terms
from fathom.search.vectors import SIZE, WordVectors, load_vectors, make_vectors
from fathom.server.word_vectors import made_word_vectors

MADE = made_word_vectors  # before the fixture that spares other tests of it
WORDS = ["car", "automobile", "wagon", "soup", "broth", "stone"]


def vectors_of(near: dict[str, int], seed: int = 0) -> WordVectors:
    """Words of the same number are near each other, others are not."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(near.values()) + 1, SIZE))
    table = np.stack([centres[group] + 0.5 * rng.normal(size=SIZE) for group in near.values()])
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    return WordVectors({word: row for row, word in enumerate(near)}, np.round(table * 127).astype(np.int8))


VECTORS = vectors_of({"car": 0, "automobile": 0, "wagon": 0, "soup": 1, "broth": 1, "stone": 2})


def twin(passages, vocabulary, words, vectors):
    """The definition, word by word."""

    def vector(word):
        known, found = vectors.of([word])
        return found[0] if len(known) else None

    def similarity(one, other):
        if one == other:
            return 1.0
        a, b = vector(one), vector(other)
        return 0.0 if a is None or b is None else max((float(a @ b) - LEAST_SIMILARITY) / (1 - LEAST_SIMILARITY), 0)

    scores = []
    for passage in passages:
        score = 0.0
        for word in words:
            holding = sum(word in {vocabulary[term] for term in other} for other in passages)
            weight = (
                np.log1p((len(passages) - holding + 0.5) / (holding + 0.5))
                if word in vocabulary
                else np.log1p(len(passages) / 0.5)
            )
            score += weight * max((similarity(word, vocabulary[term]) for term in passage), default=0.0)
        scores.append(score / max(len(passage), 1) ** LENGTH_POWER)
    return scores


@settings(deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 7)), min_size=1, max_size=6),
    st.lists(st.sampled_from([*WORDS, "unknown", "absent"]), max_size=4),
)
def test_the_scores_are_those_of_the_readable_twin(passages, words):
    vocabulary = [*WORDS, "unknown", "other"]
    arrays = [np.array(sorted(passage), np.int32) for passage in passages]
    fast = SimilarPassages(arrays, vocabulary, VECTORS).scores(words)
    np.testing.assert_allclose(fast, twin(arrays, vocabulary, words, VECTORS), rtol=1e-5, atol=1e-9)


@pytest.fixture
def index():
    with Index(None, VECTORS) as index:
        index.add(Document("a", "A", "The automobile stands in the yard."))
        index.add(Document("b", "B", "Broth and bread."))
        yield index


def test_a_passage_is_found_by_a_word_that_it_does_not_hold(index):
    assert [one.url for one in index.search("car", 3)] == ["a"]
    assert [one.url for one in index.search("soup", 3)] == ["b"]
    index.vectors = None
    assert index.search("car", 3) == []


@pytest.mark.parametrize("query", ["stone", "zebra", "豆腐", ""])
def test_what_is_only_somewhat_similar_is_not_found(index, query):
    assert index.search(query, 3) == []


def test_changes_are_seen_also_those_of_another_process(tmp_path):
    with Index(tmp_path / "i.sqlite3", VECTORS) as index, Index(tmp_path / "i.sqlite3") as other:
        index.add(Document("a", "A", "The automobile."))
        assert [one.url for one in index.search("car", 3)] == ["a"]
        other.add(Document("b", "B", "A wagon with horses."))
        assert {one.url for one in index.search("car", 3)} == {"a", "b"}
        index.remove("a")
        assert [one.url for one in index.search("car", 3)] == ["b"]


def test_a_failed_addition_leaves_the_numbers_of_words_right(index, monkeypatch):
    def full(*arguments, **options):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(index, "_write", full)
        with pytest.raises(sqlite3.OperationalError):
            index.add(Document("c", "C", "Newly said words."))
    index.add(Document("c", "C", "Quite different words with a wagon."))
    assert {one.url for one in index.search("car", 3)} == {"a", "c"}


def test_an_index_of_an_earlier_version_is_brought_up_to_date(tmp_path):
    path = tmp_path / "old.sqlite3"
    with Index(path) as index:
        index.add(Document("a", "A", "The automobile."))
    old = sqlite3.connect(path)
    old.executescript(
        "ALTER TABLE chunks DROP COLUMN terms; ALTER TABLE documents DROP COLUMN sections; DROP TABLE vocabulary; "
        "PRAGMA user_version = 0"
    )
    old.close()
    with Index(path, VECTORS) as index:
        assert [one.url for one in index.search("car", 3)] == ["a"]


def test_no_more_than_some_passages_of_one_document():
    with Index(None) as index:
        index.add(Document("long", "Long", "\n\n".join(f"lentils {number} " + "x " * 450 for number in range(9))))
        index.add(Document("short", "Short", "A lentil, lentils twice, among other things that are said here."))
        found = [one.url for one in index.search("lentils", 5)]
        assert sorted(found) == ["long", "long", "long", "short"]
        assert len({one.id for one in index.search("lentils", 5)}) == 4


def test_vectors_of_whole_words_near_as_their_embeddings(tmp_path):
    rng = np.random.default_rng(1)
    tokens = [f" {word}".encode() for word in ("car", "automobile", "Paris", "paris", "w2", "x")] + [b"piece", b"\xff"]
    tokens += [f" {'abcdefghij'[n % 10]}{'klmnopqrst'[n // 10 % 10]}{'uvwxyz'[n // 100]}".encode() for n in range(600)]
    embeddings = rng.normal(size=(len(tokens), 300)).astype(np.float32)
    embeddings[1] = embeddings[0] + 0.1 * rng.normal(size=300)
    made = make_vectors(embeddings + 5.0, tokens)
    assert "piece" not in made.rows
    assert "w2" not in made.rows
    known, both = made.of(["car", "nothing", "automobile", "paris"])
    assert list(known) == [0, 2, 3]
    assert both[0] @ both[1] > 0.9
    assert abs(both[0] @ both[2]) < 0.4
    assert load_vectors(tmp_path / "v") is None
    made.save(tmp_path / "v")
    loaded = load_vectors(tmp_path / "v")
    assert loaded is not None
    assert loaded.rows == made.rows
    np.testing.assert_array_equal(loaded.table_WD, made.table_WD)
    (tmp_path / "v" / "words.txt").write_text("too few")
    assert load_vectors(tmp_path / "v") is None


def test_the_default_models_words(smollm2_gguf, monkeypatch):
    from fathom.server.word_vectors import stored_word_vectors, word_vectors

    monkeypatch.setattr("fathom.server.word_vectors.made_word_vectors", MADE)
    assert stored_word_vectors() is None
    made = word_vectors()
    assert made is not None
    assert stored_word_vectors() is not None
    _, (tongue, languages, stone) = made.of(["tongue", "language", "stone"])
    assert tongue @ languages > tongue @ stone
    assert terms("Tongue")[0] in made.rows
