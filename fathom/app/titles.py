"""What a chat is called: its question's first words at once, then a few words by the model. Never a thought."""

import re

MAX_CHARACTERS = 60
TOKENS = 24
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


def asked_for(question: str) -> str:
    """What the model is asked."""
    return _ASKED + question[:1000]


def cleaned(answer: str) -> str:
    """The title in what the model said; nothing where that is a sentence, a list or a thought."""
    line = next((line for line in answer.splitlines() if line.strip(_TRIMMED)), "")
    title = _LABEL.sub("", line.strip(_TRIMMED)).strip(_TRIMMED)
    if not title or len(title) > MAX_CHARACTERS or "<" in title or not any(map(str.isalnum, title)):
        return ""
    return title
