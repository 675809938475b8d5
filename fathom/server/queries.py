"""What to look for: the question, and where a model can be trusted with it, the question in other words.

A question that leans on what was said before ("and without meat?") finds little by itself. A model of some size
rewrites it from the conversation; without one, the words of the question before it are taken along.
"""

import asyncio
import contextlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fathom.search.cleaning import clean
from fathom.search.terms import content_terms, language_of
from fathom.server.ability import size_of

if TYPE_CHECKING:
    from fathom.engine import Engine
    from fathom.text import Message

MOST_QUERIES = 3
REWRITING_SECONDS = 6.0
REWRITING_TOKENS = 96
_LONGEST_QUESTION = 200
_LONGEST_QUERY = 120
_SAID = 1500  # characters of the conversation that the model is shown
_FEW_TERMS = 3
_MARKER = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)、:])\s*|^[\"'“”«»`]+|[\"'“”«»`]+\s*$")
_INSTRUCTION = """You write search queries. Given a conversation and its last question, write up to {count} short \
queries for a search engine, one a line, nothing else: complete without the conversation, in the language of the \
question; where English sources would help, one of them in English."""


async def queries_for(engine: "Engine", messages: "Sequence[Message]", place: int, question: str) -> tuple[str, ...]:
    """Up to MOST_QUERIES queries, the surest first; `messages[place]` is the turn that asks `question`."""
    first = keywords(question) if len(question) > _LONGEST_QUESTION else question.strip()
    said = [message.content or "" for message in messages[:place] if message.role == "user"]
    if size_of(engine) == "able":
        rewritten = await _rewritten(engine, messages[:place], question)
    else:
        rewritten = _leaning(question, said)
    return tuple(dict.fromkeys([first, *rewritten]))[:MOST_QUERIES]


def keywords(text: str, most: int = 12) -> str:
    """The words of a text that say something."""
    # Terms of Chinese are pairs of characters, which overlap: its sentences are cut instead.
    return text[:_LONGEST_QUERY] if language_of(text) == "zh" else " ".join(content_terms(text)[:most])


def _leaning(question: str, said: Sequence[str]) -> list[str]:
    """A short question together with what the one before it was about."""
    words = content_terms(question)
    if not said or len(words) >= _FEW_TERMS:
        return []
    return [f"{keywords(said[-1])} {question.strip()}"]


async def _rewritten(engine: "Engine", before: "Sequence[Message]", question: str) -> list[str]:
    """What the model proposes, or nothing where it fails or takes too long."""
    from fathom.engine.errors import EngineError
    from fathom.text import Answer, Message, TextError

    told = "\n".join(f"{message.role}: {message.content}" for message in before if message.content)[-_SAID:]
    asked = f"{told}\n\nLast question: {question[-_SAID:]}\n\nQueries:"
    conversation = [Message("system", _INSTRUCTION.format(count=MOST_QUERIES)), Message("user", asked)]
    text = ""
    with contextlib.suppress(TimeoutError, EngineError, TextError):
        async with asyncio.timeout(REWRITING_SECONDS):
            async for event in engine.astream(conversation, temperature=0.0, max_tokens=REWRITING_TOKENS):
                text += event.text if isinstance(event, Answer) else ""
    return parsed(text, f"{told} {question}")


def parsed(text: str, conversation: str) -> list[str]:
    """Queries out of what a model wrote: short lines that speak of the conversation, or of it in another script."""
    known = set(content_terms(conversation))
    found: list[str] = []
    for line in text.splitlines():
        query = clean(_MARKER.sub("", _MARKER.sub("", line))).strip()
        if not 2 <= len(query) <= _LONGEST_QUERY:
            continue
        foreign = query.isascii() and not conversation.isascii()
        if foreign or not known.isdisjoint(content_terms(query)):
            found.append(query)
    return found[:MOST_QUERIES]
