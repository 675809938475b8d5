"""Text of pages made harmless for a prompt: nothing in it can be taken for the prompt's own marks."""

import re
import unicodedata

# Marks of prompts and of models' control tokens, in the spellings a model would take for them.
_MARKS = re.compile(
    r"[\[［【]\s*/?\s*(?:webpage\s*\d*\s*(?:begin|end)|file\s*(?:name|content\s*(?:begin|end))|citation\s*[:：]?[\d\s,，]*)"
    r"\s*[:：]?\s*[\]］】]"
    r"|<\s*[|｜][^<>|｜]{0,60}[|｜]\s*>"
    r"|<\s*/?\s*(?:think|tool_call|tool_response|tool_result|function_results?|im_start|im_end|s)\s*>"
    r"|\[\s*/?\s*INST\s*\]|<<\s*/?\s*SYS\s*>>",
    re.IGNORECASE,
)
_SPACES = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\s*\n\s*\n\s*")


def clean(text: str, *, layout: bool = False) -> str:
    """The text without control, invisible and direction-turning characters, prompt marks and control tokens.

    `layout` keeps spaces and empty lines as they are (code, tables). Idempotent: what is left over after a removal is
    looked at again, so that no mark can be built out of two halves.
    """
    text = text.replace("\r\n", "\n")
    text = "".join(character for character in text if character in "\n\t" or not _is_invisible(character))
    before = None
    while before != text:
        before, text = text, _MARKS.sub(" ", text)
        text = text.strip("\n").rstrip() if layout else _BLANK_LINES.sub("\n\n", _SPACES.sub(" ", text)).strip()
    return text


def _is_invisible(character: str) -> bool:
    # Cc, Cf, Cs, Co: controls, zero-width and bidirectional marks, tag characters, surrogates, private use. Persian and
    # Indic scripts write with the zero-width (non-)joiners.
    return character not in "\u200c\u200d" and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co")
