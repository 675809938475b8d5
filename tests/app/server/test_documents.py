"""Citations of own documents open at the passage: inside the index only, for whom they are, and never as markup."""

import pytest

from fathom.search.configured import EngineSettings
from fathom.search.index import Document
from fathom.server.searching import SearchService

HOSTILE = '<script>alert(1)</script> <img src=x onerror=alert(2)> & "quoted" lentils'


@pytest.fixture
def search(tmp_path):
    with SearchService(EngineSettings(), tmp_path / "index.sqlite3") as search:
        search.index.add(Document("file:///a.md", "</title><script>alert(3)</script>", "Before. " * 200 + HOSTILE))
        yield search


def test_a_passage_opens_in_the_app_and_in_a_page_of_its_own(start_app, search):
    passage = search.index.search("lentils", 1)[0].id
    with start_app(search=search).visitor() as visitor:
        excerpt = visitor.get("documents", params={"passage": passage}).json()
        page = visitor.get("documents/page", params={"passage": passage})
        missing = visitor.get("documents", params={"passage": "0" * 16 + "#0-9"})
        assert visitor.get("documents", params={"passage": "x" * 65}).status_code == 422
    assert HOSTILE in excerpt["text"]
    assert excerpt["before"].endswith("Before. ")
    assert missing.status_code == 404
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for markup in ("<script", "<img"):
        assert markup not in page.text
    assert "&lt;script&gt;alert(1)" in page.text
    assert '<mark id="passage">' in page.text


def test_whom_the_documents_are_not_for_sees_none_of_them(search):
    from fathom.server.errors import ApiError

    passage = search.index.search("lentils", 1)[0].id
    assert search.excerpt(passage).text
    with pytest.raises(ApiError, match="not in the own documents"):
        search.excerpt(passage, "stranger")
