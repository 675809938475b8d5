"""From a branch of a chat to what the model is asked: no thoughts, no citations of former searches, what fits."""

import re
from collections.abc import Callable, Sequence

from fathom.app import files
from fathom.app import messages as stored
from fathom.app.library import Library
from fathom.app.settings import Asked
from fathom.engine import Engine
from fathom.engine.request import Request
from fathom.engine.sampling import SamplingParams
from fathom.server.errors import bad_request
from fathom.server.models import DEFAULT_MAX_TOKENS, DEFAULT_MAX_TOKENS_THINKING
from fathom.text import Message, Prompt, TextError

TEMPERATURE = 0.6  # of DeepSeek's app (README of DeepSeek-R1), where the model's makers advise nothing
ANSWER_TOKENS = 1024  # of the context that the conversation leaves free
_CITATION = re.compile(r" ?\[citation:\d+\]")
_MEMORIES = "What is known about the user, from earlier conversations; use it where it helps:\n"


def system_message(system: str, memories: Sequence[str]) -> list[Message]:
    """None by default, as DeepSeek's app: then the model's own default holds."""
    parts = [system.strip()] if system.strip() else []
    if memories:
        parts.append(_MEMORIES + "\n".join(f"- {' '.join(memory.split())}" for memory in memories))
    return [Message("system", "\n\n".join(parts))] if parts else []


def turns(path: Sequence[stored.Message], content: Callable[[stored.Message], str]) -> list[Message]:
    """The turns of a branch. `content` says what a question says to the model (its files). Empty answers are left out,
    and with an answer that never came its question, which would stand beside the next one.
    """
    found: list[Message] = []
    for message in path:
        if message.role == "user":
            if found and found[-1].role == "user":
                found.pop()
            found.append(Message("user", content(message)))
        elif message.content.strip() and found and found[-1].role == "user":
            found.append(Message("assistant", _CITATION.sub("", message.content)))
    return found


def fit_files(
    engine: Engine, library: Library, questions: Sequence[stored.Message], asked: str, max_tokens: int | None
) -> tuple[dict[str, str], dict[str, str]]:
    """The questions with their files before them, by message, and how each file was used. Blocking.

    All files of the branch share the context; passages of long ones are chosen for what is asked now.
    """
    found = files.texts(
        library.database, library.person, [file["id"] for message in questions for file in message.files]
    )

    def count(text: str) -> int:
        return len(engine.tokenizer.encode(text))

    answer = min(max_tokens or ANSWER_TOKENS, engine.max_tokens // 2)
    budget = max((engine.max_tokens - answer - count(asked)) * 3 // 4, 0)
    fitted = files.fit(found, asked, budget, count)
    contents = {}
    for message in questions:
        shown = [(file["name"], fitted[file["id"]][0]) for file in message.files if file["id"] in fitted]
        contents[message.id] = files.file_prompt(shown, message.content)
    return contents, {identity: used for identity, (_, used) in fitted.items()}


def begun(answer: stored.Message) -> list[Message]:
    """The turn that is to be continued, where there is something of it."""
    if not answer.content and not answer.thought:
        return []
    return [Message("assistant", answer.content, reasoning_content=answer.thought or None, prefix=True)]


def fitted(engine: Engine, conversation: Sequence[Message], room: int) -> tuple[list[Message], int]:
    """The conversation without its oldest turns, as far as needed to leave `room` tokens; and how many were left out.

    What cannot be left out (the last question) stays, however long. Raises ApiError. Slow: call it in a thread.
    """
    system = [message for message in conversation if message.role == "system"]
    rest = list(conversation[len(system) :])
    kept = rest
    while len(kept) > 2 and token_count(engine, [*system, *kept]) > engine.max_tokens - room:
        kept = kept[2:]
    return [*system, *kept], len(rest) - len(kept)


def token_count(engine: Engine, conversation: Sequence[Message]) -> int:
    """Tokens of a conversation as the model gets it. Raises ApiError."""
    return len(_rendered(engine, conversation, thinking=False).ids)


def engine_request(engine: Engine, conversation: Sequence[Message], asked: Asked, salt: str) -> Request:
    """The request of an answer. Raises ApiError. Slow: call it in a thread."""
    thinking = asked.think and engine.template.thinks
    prompt = _rendered(engine, conversation, thinking=thinking)
    most = asked.max_tokens or (DEFAULT_MAX_TOKENS_THINKING if thinking else DEFAULT_MAX_TOKENS)
    budget = _thought_budget(engine, asked, len(prompt.ids)) if thinking else None
    return Request(prompt, _params(engine, asked.temperature, most), salt=salt, max_thought_tokens=budget)


def _rendered(engine: Engine, conversation: Sequence[Message], *, thinking: bool) -> Prompt:
    try:
        return engine.render(conversation, thinking=thinking)
    except TextError as error:
        raise bad_request(str(error)) from error


def _params(engine: Engine, temperature: float | None, max_tokens: int) -> SamplingParams:
    """The model's own advice, unless a person said otherwise or there is none."""
    advice = engine.defaults
    if temperature is None and (advice.temperature, advice.top_p, advice.top_k) == (1.0, 1.0, 0):
        temperature = TEMPERATURE
    return advice.params(max_tokens=max_tokens, temperature=temperature)


def _thought_budget(engine: Engine, asked: Asked, prompt_tokens: int) -> int:
    """At most half of what the context still holds, so that an answer always follows."""
    half = max((engine.max_tokens - prompt_tokens) // 2, 1)
    return min(asked.thought_tokens or engine.thought_bound or half, half)
