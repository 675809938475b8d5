"""WCAG 2.2 A and AA as far as axe-core can tell, in every main state, in both directions and both colours."""

from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

AXE = Path(__file__).parents[1] / "vendor" / "axe.min.js"
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def axe(page: Any) -> list[str]:
    """What axe-core finds, evaluated by the driver, which the page's policy does not bind."""
    page.evaluate(AXE.read_text("utf-8") + "; undefined")
    found = page.evaluate("tags => axe.run({runOnly: tags})", TAGS)
    return [f"{rule['id']}: {node['html']}" for rule in found["violations"] for node in rule["nodes"]]


@pytest.mark.parametrize(
    ("scheme", "locale", "width"), [("light", "en-GB", 1280), ("dark", "ar-EG", 1280), ("dark", "zh-CN", 360)]
)
def test_axe_finds_nothing(open_page: Any, ask: Any, scheme: str, locale: str, width: int) -> None:
    page = open_page(color_scheme=scheme, locale=locale, width=width, reduced_motion="reduce")
    assert axe(page) == []
    page.locator(".toggle").first.click()
    ask(page, "think hard")
    page.locator("summary").click()
    page.locator(".icon-info").click()
    ask(page, "code please")
    ask(page, "broken please")
    page.locator("code.hljs").wait_for()
    assert axe(page) == []
    page.locator(".icon-menu").click()
    page.locator(".entry .icon-more").first.click()
    assert axe(page) == []
    page.keyboard.press("Escape")
    page.locator(".side-button").click()
    page.locator(".dialog").wait_for()
    assert axe(page) == []
