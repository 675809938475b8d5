"""Own documents: found again by the words of a question, in the place named."""

import random
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.search.documents import add_path, add_url, refresh
from fathom.search.errors import BlockedAddressError, IndexingError
from fathom.search.extraction import Extractor
from fathom.search.extracts import Section
from fathom.search.index import Document, Index, spans
from fathom.search.ranking import fuse
from fathom.search.terms import content_terms, language_of

TEXTS = {
    "soup": ("Lentil soup", "Cook red lentils with cumin for twenty minutes and add lemon."),
    "bread": ("Bread", "Knead flour, water, salt and yeast; let it rise overnight. Good with soup."),
    "pork": ("红烧肉", "红烧肉要用五花肉，加酱油和冰糖，小火慢炖一小时。"),
    "tofu": ("麻婆豆腐", "豆腐切块，加豆瓣酱和花椒，做法简单。"),
    "arabic": ("شوربة عدس", "يطبخ العدس مع الكمون عشرين دقيقة."),
}


@pytest.fixture
def index():
    with Index(None) as index:
        for url, (title, text) in TEXTS.items():
            index.add(Document(url, title, text))
        yield index


@pytest.mark.parametrize(
    ("query", "url"),
    [
        ("How long do lentils cook?", "soup"), ("kneading", "bread"), ("OVERNIGHT", "bread"), ("红烧肉怎么做", "pork"),
        ("豆腐", "tofu"), ("五花肉", "pork"), ("شوربة", "arabic"), ("ernigh", "bread"), ("ｌｅｍｏｎ", "soup"),
    ],
)  # fmt: skip
def test_questions_find_their_document(index, query, url):
    assert index.search(query, 3)[0].url == url


@pytest.mark.parametrize("query", ["", "the what of", "怎么", "zebra", '"', "a* OR NEAR(", "title:", "\0"])
def test_nothing_is_found_where_nothing_is(index, query):
    assert index.search(query, 3) == []


@given(query=st.text(max_size=60))
def test_no_query_is_taken_for_syntax(query):
    with Index(None) as index:
        index.add(Document("a", "title", "some text"))
        index.search(query, 3)


def test_the_title_counts_more(index):
    index.add(Document("other", "Notes", "soup soup and more soup, with words around it"))
    assert index.search("soup", 5)[0].url == "soup"


def test_a_replaced_or_removed_document_leaves_no_trace(index):
    index.add(Document("soup", "Salad", "Only tomatoes now"))
    assert [one.url for one in index.search("lentils cumin", 5)] == []
    assert index.search("tomatoes", 5)[0].title == "Salad"
    assert index.remove("soup") == 1
    assert index.search("tomatoes", 5) == []


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["red", "green", "blue", "蓝色", None])), max_size=12)
)
def test_any_history_of_changes_ends_like_a_fresh_index(changes):
    current: dict[str, str] = {}
    with Index(None) as changed, Index(None) as fresh:
        for url, text in changes:
            if text is None:
                changed.remove(url)
                current.pop(url, None)
            else:
                changed.add(Document(url, text, text))
                current[url] = text
        for url, text in current.items():
            fresh.add(Document(url, text, text))
        for word in ("red", "green", "blue", "蓝色"):
            found = {one.url for one in changed.search(word, 9)}
            assert found == {one.url for one in fresh.search(word, 9)} == {u for u, t in current.items() if t == word}


@given(st.text(st.sampled_from("ab .\n。"), max_size=400), st.integers(2, 50))
def test_parts_cover_the_text_within_their_size(text, size):
    found = spans(text, size)
    assert "".join(text[first:last] for first, last in found) == text
    assert all(0 < last - first <= size for first, last in found)


def test_a_passage_names_its_place_and_keeps_its_name(tmp_path):
    rng = random.Random(1)
    words = [f"w{number}" for number in range(300)]
    text = ". ".join(" ".join(rng.choices(words, k=9)) for _ in range(80)) + ". The needle is here."
    names = []
    for attempt in range(2):
        with Index(tmp_path / f"{attempt}.sqlite3") as index:
            index.add(Document("file:///x", "x", text))
            passage = index.search("needle", 1)[0]
        first, last = map(int, passage.id.partition("#")[2].split("-"))
        assert text[first:last].strip() == passage.text
        assert "needle" in passage.text
        names.append(passage.id)
    assert names[0] == names[1]


def test_fusion_prefers_what_several_rankings_like():
    assert fuse([["a", "b"], ["c", "b"]]) == ["b", "a", "c"]
    assert fuse([[], ["x"]]) == ["x"]


def test_terms_and_languages():
    assert content_terms("What is the 红烧肉 recipe?") == ["红烧", "烧肉", "recipe"]
    assert [language_of(text) for text in ("DeepSeek 是什么", "hello", "مرحبا", "the word 肉 in English text")] == [
        "zh", "en", "en", "en",
    ]  # fmt: skip


def test_a_folder_follows_its_files(tmp_path):
    folder = tmp_path / "notes"
    (folder / ".git").mkdir(parents=True)
    (folder / "a.md").write_text("# Plum cake\n\nBake for an hour.")
    (folder / "b.html").write_text("<title>Tea</title><body><p>Steep green tea for two minutes in water.</p></body>")
    (folder / "c.png").write_bytes(b"\x89PNG")
    (folder / "d.txt").write_bytes(b"binary\0")
    (folder / ".git" / "e.txt").write_text("secret")
    (tmp_path / "outside.txt").write_text("outside")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    with Index(tmp_path / "index.sqlite3") as index, Extractor() as extractor:
        report = add_path(index, folder, extractor)
        assert (report.added, len(report.skipped)) == (2, 1)
        assert index.search("plum", 3)[0].title == "Plum cake"
        assert index.search("green tea", 3)[0].title == "Tea"
        assert index.search("secret outside", 3) == []
        (folder / "a.md").write_text("# Apple cake\n\nBake for two hours.")
        (folder / "b.html").unlink()
        report = add_path(index, folder, extractor)
        assert (report.added, report.unchanged, report.removed) == (1, 0, 1)
        assert index.search("plum tea", 3) == []
        assert add_path(index, folder, extractor).unchanged == 1
        with pytest.raises(IndexingError, match="is not there"):
            add_path(index, folder / "missing", extractor)


def test_a_page_is_indexed_through_the_one_fetcher(site, run):
    site.html("/page", "<title>Figs</title><p>Figs ripen in late summer.</p>")
    with Index(None) as index, Extractor() as extractor:
        run(add_url(index, site.url + "/page", extractor, allow_private=True))
        assert index.search("figs", 1)[0].url == site.url + "/page"
        with pytest.raises(BlockedAddressError):
            run(add_url(index, site.url + "/page", extractor))


def test_this_sqlite_has_what_the_index_needs():
    options = {row[0] for row in sqlite3.connect(":memory:").execute("PRAGMA compile_options")}
    assert "ENABLE_FTS5" in options


def test_a_passage_opens_in_its_surroundings(tmp_path):
    sections = (Section("page 1", 0, 1500), Section("page 2", 1500, 4000))
    text = "".join(f"Sentence {number} of the text says little. " for number in range(80)) + "The needle is here."
    with Index(None) as index:
        index.add(Document("file:///x", "X <b>", text, sections=sections))
        passage = index.search("needle", 1)[0]
        assert passage.section == "page 2"
        excerpt = index.excerpt(passage.id, around=100)
        assert excerpt is not None
        assert "needle" in excerpt.text
        assert text.find(excerpt.before + excerpt.text + excerpt.after) >= 0
        assert len(excerpt.before) == 100
        assert (excerpt.title, excerpt.section) == ("X <b>", "page 2")
        key, _, place = passage.id.partition("#")
        other = f"{'0' * 16}#{place}"
        for wrong in ("", "x", passage.id + "0", other, f"{key}#0-3", f"{key}#../../etc/passwd", f"{key}#-1-5"):
            assert index.excerpt(wrong) is None
        index.remove("file:///x")
        assert index.excerpt(passage.id) is None


def test_folders_are_read_anew_and_unplugged_ones_kept(tmp_path):
    for name in ("notes", "drive"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.md").write_text(f"plums in the {name}")
    with Index(tmp_path / "index.sqlite3") as index, Extractor() as extractor:
        for name in ("notes", "drive"):
            add_path(index, tmp_path / name, extractor)
        (tmp_path / "notes" / "a.md").write_text("figs instead of them")
        (tmp_path / "notes" / "b.md").write_text("more figs")
        (tmp_path / "drive").rename(tmp_path / "unplugged")
        stopped = refresh(index, extractor, lambda: False)
        assert (stopped.added, stopped.removed) == (0, 0)
        report = refresh(index, extractor)
        assert (report.added, report.unchanged, report.removed) == (2, 0, 0)
        assert len(index.search("figs", 5)) == 2
        assert [one.url.split("/")[-2] for one in index.search("plums", 5)] == ["drive"]
