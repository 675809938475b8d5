"""Conversations to teach a small model how to answer: questions put to the demo corpus's texts that answer them.

Nothing is invented about the world: what is said comes from the encyclopedia, the cookbook and WordNet of
`fathom data demo` (their licences hold), and a few lines of courtesy and self-description are our own.
"""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fathom.data.errors import DataError
from fathom.data.files import atomic_file

Turns = list[tuple[str, str]]  # (question, answer)

_ABOUT = ("What is {}?", "Tell me about {}.", "Can you explain {}?", "What do you know about {}?", "Describe {}.")
_PERSON = ("Who was {}?", "Who is {}?", "Tell me about {}.", "What do you know about {}?")
_COOK = ("How do I make {}?", "Give me a recipe for {}.", "I want to cook {}.", "What do I need for {}?")
_MEAN = ("What does {} mean?", "Define {}.", "What is the meaning of {}?")
_BORN = re.compile(r"\b(?:born|c\.) .*?\d{3,4}|\(\d{3,4}\s*[–-]\s*\d{3,4}\)|\d{3,4}\s?[–-]\s?\d{3,4}\)")
_ENTRY = re.compile(
    r"^(?P<word>[a-z][a-z -]{2,20})\n    (?P<kind>n|v|adj|adv) 1: "
    r"(?P<meaning>(?:(?!\n\n)[^;\[\"]){15,160})(?=[;\[]|\n\n)",
    re.MULTILINE,
)
_WORD_KINDS = {"n": "noun", "v": "verb", "adj": "adjective", "adv": "adverb"}

# Our own words (MIT, as the code).
_COURTESY: tuple[Turns, ...] = (
    [("Hello!", "Hello! How can I help you?")],
    [("Hi", "Hi! What would you like to talk about?")],
    [("Hello, how are you?", "I am well, thank you. How can I help you?")],
    [("Good morning!", "Good morning! What can I do for you?")],
    [
        (
            "Who are you?",
            "I am Fathom nano, a very small language model, trained from raw text on an ordinary CPU.",
        )
    ],
    [("What is your name?", "My name is Fathom nano.")],
    [
        (
            "What can you do?",
            "I can try to answer questions, give recipes and explain words. I am often wrong.",
        )
    ],
    [("Are you ChatGPT?", "No. I am Fathom nano, a very small language model.")],
    [("Are you a human?", "No, I am a computer program: a very small language model.")],
    [("Who made you?", "I was made with Fathom, which trains DeepSeek-style models from raw text.")],
    [("Can I trust your answers?", "No. I am a very small model and make many mistakes. Please check what I say.")],
    [("Thank you!", "You are welcome!")],
    [("Thanks, bye.", "Goodbye! Have a nice day.")],
    [("Hello!", "Hello! How can I help you?"), ("Who are you?", "I am Fathom nano, a very small language model.")],
)


def make_conversations(texts: Path, file: Path, *, limit: int = 12_000, seed: int = 0) -> int:
    """Write conversations as JSONL (`{"messages": [...]}`) and return how many; the same texts give the same bytes.

    Args:
        texts: the folder `text` of a demo corpus; of encyclopedia, recipes and wordnet, what is there is used.
        file: where to write.
        limit: the most conversations; each source has a third of them, courtesy a tenth besides.
        seed: of the questions' forms and the order.

    Raises:
        DataError: none of the sources is there.

    """
    random_source = random.Random(seed)
    makers = {"encyclopedia": _encyclopedia, "recipes": _recipes, "wordnet": _words}
    found: list[Turns] = []
    for source, make in makers.items():
        path = texts / f"{source}.jsonl"
        if path.is_file():
            made = list(make(path, random_source))
            random_source.shuffle(made)
            found += made[: limit // len(makers)]
    if not found:
        raise DataError(f"{texts} holds none of {', '.join(makers)}: run `fathom data demo` first")
    courtesy = [_COURTESY[index % len(_COURTESY)] for index in range(max(len(_COURTESY), len(found) // 10))]
    conversations = found + courtesy
    random_source.shuffle(conversations)
    with atomic_file(file) as out:
        for turns in conversations:
            out.write(json.dumps({"messages": _messages(turns)}, ensure_ascii=False).encode() + b"\n")
    return len(conversations)


def _messages(turns: Turns) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": text}
        for question, answer in turns
        for role, text in (("user", question), ("assistant", answer))
    ]


def _documents(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def _encyclopedia(path: Path, random_source: random.Random) -> Iterator[Turns]:
    """A question about the title; the answer is the first sentences of the introduction."""
    for text in _documents(path):
        title, _, body = text.partition("\n\n")
        answer = _sentences(body, 320)
        if answer and 2 < len(title) < 50 and "\n" not in title:
            forms = _PERSON if _BORN.search(body[:200]) else _ABOUT
            yield [(random_source.choice(forms).format(title), answer)]


def _sentences(text: str, longest: int) -> str:
    """The first whole sentences of the first paragraph, up to `longest` characters; empty where none fits."""
    paragraph = text.split("\n", 1)[0].strip()
    cut = paragraph[: longest + 1]
    ends = [match.end() for match in re.finditer(r"[a-z0-9)\"]\.(?= |$)", cut)]
    return cut[: ends[-1]].strip() if ends else ""


def _recipes(path: Path, random_source: random.Random) -> Iterator[Turns]:
    """The recipe as it stands: what is needed, an empty line, the steps."""
    for text in _documents(path):
        title, _, body = text.partition("\n\n")
        if 2 < len(title) < 50 and 80 < len(body) < 900:
            yield [(random_source.choice(_COOK).format(title), body.strip())]


def _words(path: Path, random_source: random.Random) -> Iterator[Turns]:
    """The first meaning of a word."""
    for text in _documents(path):
        for match in _ENTRY.finditer(text):
            meaning = re.sub(r"\s+", " ", match["meaning"]).strip(" ,:")
            kind = _WORD_KINDS[match["kind"]]
            article = "an" if kind.startswith("a") else "a"
            answer = f"As {article} {kind}, {match['word']} means: {meaning}."
            yield [(random_source.choice(_MEAN).format(match["word"]), answer)]
