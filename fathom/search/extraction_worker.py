"""The process that parses pages: reads a line of JSON, writes a line of JSON; knows nothing of Fathom's data.

A page can make a parser slow, large or crash, so this process is bounded by its parent (time) and itself (memory).
"""

import json
import re
import resource
import sys
from typing import Any

import trafilatura
from lxml import etree, html  # type: ignore[import-untyped]
from trafilatura.settings import Document

_UNSEEN = "script style noscript template iframe object embed svg math form button select textarea"
_UNSEEN_TAGS = frozenset(_UNSEEN.split())
_UNSEEN_STYLE = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*(hidden|collapse)|opacity\s*:\s*0*\.?0*\s*(;|$|!)"
    r"|font-size\s*:\s*0*\.?0+\s*(px|em|rem|pt|%|;|$)"
    r"|(left|top|text-indent)\s*:\s*-\d{3,}|clip(-path)?\s*:|(width|height)\s*:\s*0(px)?\s*(;|$)",
    re.IGNORECASE,
)


def is_unseen(element: Any) -> bool:
    """Whether a reader of the page would not see an element, as far as the page itself says so."""
    return (
        not isinstance(element.tag, str)
        or element.tag in _UNSEEN_TAGS
        or "hidden" in element.attrib
        or element.get("aria-hidden", "").lower() == "true"
        or bool(_UNSEEN_STYLE.search(element.get("style", "")))
    )


def extract(page: str) -> dict[str, str]:
    """Title, date (ISO, or empty) and main text of a page, without what a reader would not see."""
    parser = html.HTMLParser(remove_comments=True, remove_pis=True, encoding="utf-8")
    tree = html.document_fromstring(page.encode("utf-8", errors="replace"), parser=parser)
    for element in [one for one in tree.iter() if one is not tree and is_unseen(one)]:
        if element.getparent() is not None:
            element.drop_tree()
    title = tree.findtext(".//title") or tree.findtext(".//h1") or ""
    found = trafilatura.bare_extraction(tree, include_comments=False, include_tables=True, with_metadata=True)
    fields = found.as_dict() if isinstance(found, Document) else {}
    # A page without what trafilatura takes for a main part still says something.
    return {"title": title, "date": fields.get("date") or "", "text": fields.get("text") or tree.text_content()}


def main() -> None:
    """Serve until the input ends."""
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for line in sys.stdin:
        try:
            reply = extract(json.loads(line))
        except (etree.LxmlError, ValueError, MemoryError, RecursionError, TypeError, AttributeError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
