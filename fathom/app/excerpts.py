"""A few words around what was searched for, with the places of the hits; plain data, no markup."""

import re
from collections.abc import Sequence
from typing import Any

_BEFORE, _AFTER = 40, 120


def excerpt(content: str, words: Sequence[str]) -> dict[str, Any]:
    """`{text, spans}`: spans are `[from, to]` in UTF-16 units, as browsers count; none where only the stem matched."""
    pattern = re.compile("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)), re.IGNORECASE)
    first = pattern.search(content)
    start = max(0, first.start() - _BEFORE) if first else 0
    if start:  # begin at a word where there is one
        start += re.match(r"\S{0,15}\s|", content[start : first.start() if first else start]).end()  # type: ignore[union-attr]
    shown = content[start : start + _BEFORE + _AFTER]
    text = re.sub(r"\s", " ", shown)  # one for one, so that places stay
    spans = [[_units(text[: hit.start()]), _units(text[: hit.end()])] for hit in pattern.finditer(text)]
    return {"text": text, "spans": spans}


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
