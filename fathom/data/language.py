"""Which language a text is in, told by its script and by its commonest words. Light and coarse on purpose.

Script first: the share of letters in Han, kana, Hangul, Arabic, Cyrillic, ... decides between languages that have a
script nearly to themselves. Within Latin script the share of words that are among a language's commonest ones decides.
It tells a page of English from one of French or Chinese. It does not tell Portuguese from Galician, traditional from
simplified Chinese, nor the language of a line of ten words: short or undecided texts are `und` (undetermined).
"""

import re
from collections import Counter
from dataclasses import dataclass

_SCRIPTS = {
    "ja": re.compile("[\u3040-\u30ff]"),
    "zh": re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]"),
    "ko": re.compile("[\uac00-\ud7a3\u1100-\u11ff]"),
    "ar": re.compile("[\u0600-\u06ff\u0750-\u077f]"),
    "ru": re.compile("[\u0400-\u052f]"),
    "el": re.compile("[\u0370-\u03ff]"),
    "he": re.compile("[\u0590-\u05ff]"),
    "hi": re.compile("[\u0900-\u097f]"),
    "th": re.compile("[\u0e00-\u0e7f]"),
}
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")
_LATIN_WORD = re.compile("[a-z\u00df-\u024f]+(?:'[a-z]+)?")
_COMMON = {
    "en": "the of and to in is a that for it as was with be by on not he this are or his from at which but have "
    "an had they you were their one all we can her has there been if more when will would who so no your "
    "what",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden "
    "aus er hat dass sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur "
    "oder aber vor zur bis",
    "fr": "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont avec "
    "ou son aux d'un cette d'une ont ses mais comme on tout nous sa fait été aussi leur bien peut ces y "
    "deux",
    "es": "de la que el en y a los se del las un por con no una su para es al lo como más o pero sus le ha me "
    "si sin sobre este ya entre cuando todo esta ser son dos también fue había era muy años hasta desde "
    "está",
    "it": "di e il la che in a per un del è della con non sono una si le da al i nel dei come più gli alla "
    "anche o ha dal delle ma lo su se ai suo tra nella questo essere stato degli sua era",
    "pt": "de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem "
    "à seu sua ou ser quando muito há nos já está eu também só pelo pela até isso ela entre era",
    "nl": "de van het een en in is dat op te zijn met voor niet aan er om ook als dan maar bij of uit nog "
    "worden door naar heeft tot ze wordt over hij zich hun kan was wel",
}
_COMMON_WORDS = {language: frozenset(words.split()) for language, words in _COMMON.items()}
SAMPLE_CHARACTERS = 20_000
MINIMUM_LETTERS = 20
MINIMUM_WORDS = 10
MINIMUM_COMMON_SHARE = 0.12


@dataclass(frozen=True, slots=True)
class Language:
    """A code (ISO 639-1, or `und`) and the share of letters or words that speak for it."""

    code: str
    share: float


def identify(text: str) -> Language:
    """The language of the first 20,000 characters."""
    sample = text[:SAMPLE_CHARACTERS]
    scripts = Counter({code: len(pattern.findall(sample)) for code, pattern in _SCRIPTS.items()})
    latin = len(_LATIN.findall(sample))
    letters = scripts.total() + latin
    if letters < MINIMUM_LETTERS:
        return Language("und", 0.0)
    code, count = scripts.most_common(1)[0]
    # Chinese technical prose carries many Latin names: a character says about as much as three Latin letters.
    if 3 * scripts.total() > latin:
        return Language(*_of_script(scripts, code, count))
    return _of_words(sample)


def _of_script(scripts: Counter[str], code: str, count: int) -> tuple[str, float]:
    if code in ("zh", "ja"):
        east = scripts["zh"] + scripts["ja"]
        # Japanese prose is about half kana; Chinese has none.
        return ("ja" if scripts["ja"] > 0.1 * east else "zh"), east / scripts.total()
    return code, count / scripts.total()


def _of_words(sample: str) -> Language:
    words = _LATIN_WORD.findall(sample.lower())
    if len(words) < MINIMUM_WORDS:
        return Language("und", 0.0)
    shares = {code: sum(word in common for word in words) / len(words) for code, common in _COMMON_WORDS.items()}
    code = max(shares, key=lambda language: shares[language])
    return Language(code if shares[code] >= MINIMUM_COMMON_SHARE else "und", shares[code])
