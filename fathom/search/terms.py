"""Words to search by: in scripts without spaces, pairs of neighbouring characters (as Lucene's CJKAnalyzer does)."""

import re
import unicodedata

_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
_RUN = re.compile(rf"[{_CJK}]+|[^\W_{_CJK}]+")
_HAN = re.compile(rf"[{_CJK}]")
_ENGLISH = (
    "a about after all also am an and any are as at be because been but by can could did do does for from get had has "
    "have he her him his how i if in into is it its just me more most my no not of on or our out over she so some than "
    "that the their them then there these they this to up us was we were what when where which who why will with would "
    "you your tell please give find"
)
_ARABIC = "من في على إلى عن ما هو هي هل كيف أن و ال مع هذا هذه التي الذي"
_STOP_WORDS = frozenset(f"{_ENGLISH} {_ARABIC}".split())
# Words of questions that carry nothing; taken out before pairs are made.
_STOP_PHRASES = re.compile(
    "什么|怎么样|怎么|如何|为什么|哪里|哪些|请问|请|可以|一下|[的了吗呢吧啊是在和与我你他她它们]"
)


def terms(text: str) -> list[str]:
    """Words and character pairs in order, folded in case and width."""
    found: list[str] = []
    for run in _RUN.findall(unicodedata.normalize("NFKC", text).casefold()):
        if _HAN.match(run) and len(run) > 1:
            found += [run[start : start + 2] for start in range(len(run) - 1)]
        else:
            found.append(run)
    return found


def content_terms(text: str) -> list[str]:
    """The terms that say something: no stop words, each once."""
    return list(dict.fromkeys(term for term in terms(_STOP_PHRASES.sub(" ", text)) if term not in _STOP_WORDS))


def substrings(text: str) -> list[str]:
    """What to look for inside longer words: content words of at least three characters, triples in Chinese."""
    found: list[str] = []
    folded = unicodedata.normalize("NFKC", _STOP_PHRASES.sub(" ", text)).casefold()
    for run in _RUN.findall(folded):
        if _HAN.match(run):
            found += [run[start : start + 3] for start in range(len(run) - 2)]
        elif len(run) > 2 and run not in _STOP_WORDS:
            found.append(run)
    return list(dict.fromkeys(found))


def language_of(text: str) -> str:
    """`zh` where Chinese characters lead, else `en`: which of DeepSeek's two search prompts fits a question."""
    letters = [character for character in text if character.isalpha()]
    han = sum("\u4e00" <= character <= "\u9fff" for character in letters)
    # A Chinese character says about as much as three Latin letters.
    return "zh" if han and 3 * han >= len(letters) - han else "en"
