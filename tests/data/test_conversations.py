"""Conversations made from texts: what is asked, what is answered, the same bytes again."""

import json
from pathlib import Path

import pytest

from fathom.data.conversations import make_conversations
from fathom.data.demo import catalogue, select
from fathom.data.errors import DataError

TEXTS = {
    "encyclopedia": [
        "Helsinki\n\nHelsinki is the capital of Finland. It lies on the sea. " + "It is large. " * 40,
        "Ada Lovelace\n\nAda Lovelace (born 10 December 1815) was a mathematician.",
        "Nothing\n\nno sentence here",
    ],
    "recipes": ["Soup\n\n1 onion\n2 carrots\n\nCook the onion and the carrots in water for an hour, then serve."],
    "wordnet": [
        'able\n    adj 1: (usually followed by `to\') having the necessary\n         means or skill; "able to swim"\n\n'
        "ship\n    n 1: a vessel that carries passengers or\n         freight [syn: ship]\n\nshort\n    n 1: tiny\n\n"
    ],
}


@pytest.fixture
def texts(tmp_path):
    for source, documents in TEXTS.items():
        lines = [json.dumps({"text": text}) for text in documents]
        (tmp_path / f"{source}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def answered(file: Path) -> dict[str, str]:
    pairs = {}
    for line in file.read_text().splitlines():
        messages = json.loads(line)["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        contents = [message["content"] for message in messages]
        pairs |= dict(zip(contents[::2], contents[1::2], strict=True))
    return pairs


def test_answers_come_from_the_texts(texts, tmp_path):
    count = make_conversations(texts, tmp_path / "chat.jsonl")
    pairs = answered(tmp_path / "chat.jsonl")
    assert count == 5 + 14
    about = {question: answer for question, answer in pairs.items() if "Helsinki" in question}
    (answer,) = about.values()
    assert answer.startswith("Helsinki is the capital of Finland. It lies on the sea.")
    assert len(answer) <= 321
    assert answer.endswith(".")
    assert any(question.startswith(("Who", "Tell", "What do you")) for question in pairs if "Ada" in question)
    assert any(answer == TEXTS["recipes"][0].split("\n\n", 1)[1] for answer in pairs.values())
    meanings = {answer for answer in pairs.values() if " means: " in answer}
    assert meanings == {
        "As an adjective, able means: (usually followed by `to') having the necessary means or skill.",
        "As a noun, ship means: a vessel that carries passengers or freight.",
    }
    assert "Fathom" in pairs["Who are you?"]


def test_the_same_texts_give_the_same_bytes(texts, tmp_path):
    for name in ("a", "b"):
        make_conversations(texts, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    make_conversations(texts, tmp_path / "c", seed=1)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_without_texts_it_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="fathom data demo"):
        make_conversations(tmp_path, tmp_path / "chat.jsonl")


def test_sources_are_chosen_by_name():
    packages = select(catalogue().packages, ["addresses", "wordnet"])
    assert [text.source for package in packages for text in package.texts] == ["addresses", "wordnet"]
    with pytest.raises(DataError, match="no source nonsense"):
        select(catalogue().packages, ["nonsense"])
