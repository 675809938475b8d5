"""What a chat is called: its question's first words at once, then a few words by the model. Never a thought."""

import asyncio
import re

from fathom.engine import Engine
from fathom.engine.request import Request
from fathom.server.errors import ApiError
from fathom.server.generation import Generation
from fathom.server.service import Service
from fathom.text import Answer, Message, TextError

MAX_CHARACTERS = 60
SECONDS = 30.0
_TOKENS = 24
_ASKED = (
    "Write a title of two to five words for a conversation that begins with the message below. "
    "Use the language of the message. Answer with the title only.\n\n"
)
_LABEL = re.compile(r"^(title|titre|标题|标题是|العنوان)\s*[:：]\s*", re.IGNORECASE)
_TRIMMED = " \t\"'“”‘’«»「」『』《》*_#`.。:：-"


def first_words(question: str) -> str:
    """The first line of a question, cut at a word where there is one."""
    line = next((line.strip() for line in question.splitlines() if line.strip()), "")
    if len(line) <= MAX_CHARACTERS:
        return line
    cut = line[:MAX_CHARACTERS]
    words = cut.rpartition(" ")[0]
    return f"{words if len(words) > MAX_CHARACTERS // 2 else cut}…"


async def make_title(service: Service, engine: Engine, question: str, salt: str) -> str:
    """A title by the model, or nothing where what it says is none. Raises ApiError."""
    request = await asyncio.to_thread(_request, engine, question, salt)
    answer = ""
    with Generation(service, engine, [request], engine.model_name) as generation:
        async with asyncio.timeout(SECONDS):
            async for events in generation:
                answer += "".join(event.text for _, event in events if isinstance(event, Answer))
    return cleaned(answer)


def cleaned(answer: str) -> str:
    """The title in what the model said; nothing where that is a sentence, a list or a thought."""
    line = next((line for line in answer.splitlines() if line.strip(_TRIMMED)), "")
    title = _LABEL.sub("", line.strip(_TRIMMED)).strip(_TRIMMED)
    if not title or len(title) > MAX_CHARACTERS or "<" in title or not any(map(str.isalnum, title)):
        return ""
    return title


def _request(engine: Engine, question: str, salt: str) -> Request:
    try:
        prompt = engine.render([Message("user", _ASKED + question[:1000])], thinking=False)
    except TextError as error:
        raise ApiError(500, f"The model's template gives no title: {error}") from error
    return Request(prompt, engine.defaults.params(max_tokens=_TOKENS, temperature=0.0), salt=salt)
