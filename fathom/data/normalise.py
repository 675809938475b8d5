"""One spelling for the same text, before anything is compared, counted or encoded."""

import re
import unicodedata

# C0 and C1 controls but tab and newline, the byte order mark, and the soft hyphen (where a line may break).
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\u00ad\ud800-\udfff]")
_NEWLINES = re.compile("\r\n?|\u2028|\u2029|\x85|\x0c")
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{4,}")


def normalise(text: str) -> str:
    """Unicode NFC, plain newlines, no control characters, no white space at line ends, at most two blank lines running.

    Idempotent. NFC and not NFKC: compatibility forms (superscripts, full-width letters) mean something in formulas and
    in Chinese, and DeepSeek's tokenizers keep them. Indentation is kept, for code.
    """
    text = _NEWLINES.sub("\n", text)
    text = unicodedata.normalize("NFC", _CONTROLS.sub("", text))
    text = _BLANK_LINES.sub("\n\n\n", _TRAILING.sub("", text))
    return text.strip("\n")
