"""The short path through the page, in a real headless Chromium, against the real store and a scripted engine."""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.browser

Ask = Callable[..., None]
OpenPage = Callable[..., Any]


def answers(page: Any) -> Any:
    return page.get_by_role("article", name="assistant")


def prose(page: Any) -> Any:
    return answers(page).locator("> .prose")


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.02)


def rendered(app: Any) -> list[tuple[str, str | None]]:
    """What the model was last asked, titles apart."""
    asked = [
        all_of for all_of in app.engine.template.rendered if not (all_of[-1].content or "").startswith("Write a ti")
    ]
    return [(message.role, message.content) for message in asked[-1]]


def show_chats(page: Any) -> Any:
    page.get_by_role("button", name="Show chats").click()
    return page.get_by_role("navigation", name="Chats")


def test_ask_and_answer(page: Any, app: Any, ask: Ask) -> None:
    ask(page, "What is the capital of France?")
    log = page.get_by_role("log")
    assert log.get_by_role("article", name="user").inner_text().strip() == "What is the capital of France?"
    assert answers(page).locator(".prose strong").inner_text() == "world"
    ask(page, "And of Spain?")
    assert rendered(app) == [
        ("user", "What is the capital of France?"),
        ("assistant", "Hello **world**!"),
        ("user", "And of Spain?"),
    ]
    assert page.title() == "What is the capital of France? · Fathom"
    page.get_by_role("button", name="Details").last.click()
    facts = answers(page).last.locator(".facts").inner_text()
    assert "3 tokens" in facts
    assert "50.0 tokens/s" in facts
    assert re.search(r"GPT-4: \$0\.\d+", facts)
    assert page.get_by_text("On this machine").is_visible()


def test_stop_freezes_and_stays_stopped_after_reload_and_goes_on(page: Any, app: Any, ask: Ask) -> None:
    ask(page, "slow please", wait=False)
    page.get_by_text("Word20 ").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Send").wait_for()
    answers(page).get_by_text("Stopped").wait_for()
    frozen = prose(page).inner_text()
    wait_until(lambda: app.engine.cancelled == 1)
    page.wait_for_timeout(300)
    assert prose(page).inner_text() == frozen
    page.reload()
    answers(page).get_by_text("Stopped").wait_for()
    assert prose(page).inner_text() == frozen
    assert page.get_by_role("button", name="Stop").is_hidden()
    page.get_by_role("button", name="Continue").click()
    page.get_by_text("and so it ends.").wait_for()
    assert prose(page).inner_text().startswith(frozen.rstrip())
    assert answers(page).get_by_text("Stopped").count() == 0


def test_reload_in_mid_stream_comes_back_to_the_running_answer(page: Any, ask: Ask) -> None:
    ask(page, "slow please", wait=False)
    page.get_by_text("Word40 ").wait_for()
    shown = prose(page).inner_text()
    page.reload()
    page.get_by_role("button", name="Stop").wait_for()
    page.get_by_text("Word90 ").wait_for()
    text = prose(page).inner_text()
    assert text.startswith(shown.rstrip())
    assert [int(word) for word in re.findall(r"Word(\d+)", text)] == list(range(1, len(text.split()) + 1))
    page.get_by_role("button", name="Stop").click()
    answers(page).get_by_text("Stopped").wait_for()


def test_thought_is_folded_and_timed(page: Any, app: Any, ask: Ask) -> None:
    toggle = page.get_by_role("button", name="DeepThink")
    assert toggle.get_attribute("aria-pressed") == "false"
    toggle.click()
    assert toggle.get_attribute("aria-pressed") == "true"
    ask(page, "think hard")
    assert app.engine.requests[0].prompt.channel == "thought"
    summary = page.locator("summary")
    timed = summary.inner_text()
    assert re.fullmatch(r"Thought for \d+ s", timed)
    assert page.get_by_text("First I count.").is_hidden()
    summary.click()
    page.get_by_text("First I count. Then I check.").wait_for()
    assert prose(page).inner_text() == "The answer is 42."
    ask(page, "And now?")
    assert [role for role, _ in rendered(app)] == ["user", "assistant", "user"]
    page.reload()
    page.locator("summary").first.wait_for()
    assert page.locator("summary").first.inner_text() == timed
    assert page.get_by_role("button", name="DeepThink").get_attribute("aria-pressed") == "true"


def test_answer_now_ends_the_thought(page: Any, ask: Ask) -> None:
    page.get_by_role("button", name="DeepThink").click()
    ask(page, "ponder please", wait=False)
    page.locator("summary", has_text="Thinking…").wait_for()
    page.get_by_role("button", name="Answer now").click()
    page.get_by_text("Never mind.").wait_for()
    page.locator("summary", has_text="Thought for").wait_for()
    assert page.get_by_role("button", name="Answer now").is_hidden()


def test_hostile_answer_does_nothing(open_page: OpenPage, ask: Ask) -> None:
    page = open_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    ask(page, "hostile please")
    page.wait_for_timeout(300)
    page.reload()
    answers(page).wait_for()
    page.wait_for_timeout(300)
    assert page.evaluate("window.pwned") is None
    inside = prose(page)
    for forbidden in (
        "script",
        "img",
        "iframe",
        "style",
        "form",
        "input",
        "svg:not(.icon)",
        "[onerror], [onload], [style*=':']:not([style*='contain-intrinsic'])",
    ):
        assert inside.locator(forbidden).count() == 0, forbidden
    links = inside.locator("a").evaluate_all(
        "all => all.map(a => [a.getAttribute('href'), a.rel, a.target, a.dataset.host])"
    )
    assert len(links) >= 3
    for href, rel, target, _ in links:
        assert re.match(r"https://", href)
        assert (rel, target) == ("noopener noreferrer nofollow", "_blank")
    assert ["https://honest.example/page", links[0][1], "_blank", "honest.example"] in links
    assert any(host == "evil.example" for *_, host in links), "an image becomes a link that names its host"
    assert all("evil.example" not in url for url in asked)


def test_a_server_that_is_started_anew_in_mid_answer_loses_nothing(own_app: Any, open_any: OpenPage, ask: Ask) -> None:
    own_app.start()
    page = open_any(own_app.url)
    ask(page, "slow please", wait=False)
    page.get_by_text("Word30 ").wait_for()
    shown = prose(page).inner_text()
    own_app.stop()
    own_app.start()
    answers(page).get_by_text("Interrupted").wait_for()
    assert prose(page).inner_text().startswith(shown.rstrip())
    page.get_by_role("button", name="Continue").click()
    page.get_by_text("and so it ends.").wait_for()


def test_regenerate_and_edit_open_branches(page: Any, app: Any, ask: Ask) -> None:
    ask(page, "First question")
    page.get_by_role("button", name="Regenerate").click()
    page.get_by_text("2 of 2").wait_for()
    page.get_by_role("button", name="Send").wait_for()
    page.locator("article.user").hover()
    page.get_by_role("button", name="Edit question").click()
    page.get_by_role("textbox", name="Edited question").fill("code please")
    page.get_by_role("textbox", name="Edited question").press("Enter")
    page.get_by_text("Here is a function:").wait_for()
    page.get_by_role("button", name="Send").wait_for()
    assert rendered(app) == [("user", "code please")]
    page.reload()
    page.get_by_text("Here is a function:").wait_for()
    page.locator("article.user").get_by_role("button", name="Previous version").click()
    page.locator("article.user", has_text="First question").wait_for()
    assert prose(page).inner_text() == "Hello world!"
    assert answers(page).get_by_text("2 of 2").is_visible()
    page.reload()
    page.locator("article.user", has_text="First question").wait_for()


def test_second_tab_sees_the_answer_grow_and_stop(page: Any, app: Any, ask: Ask) -> None:
    ask(page, "slow please", wait=False)
    page.get_by_text("Word10 ").wait_for()
    other = page.context.new_page()
    other.goto(page.url)
    other.get_by_text("Word60 ").wait_for()
    assert other.get_by_text("Stopped").count() == 0
    page.get_by_role("button", name="Stop").click()
    other.get_by_text("Stopped").wait_for()
    ask(other, "Hello")
    page.get_by_text("Hello world!").wait_for()
    assert prose(page).first.inner_text() == prose(other).first.inner_text()


def test_the_language_switch_keeps_the_conversation(page: Any, ask: Ask) -> None:
    ask(page, "Hello")
    show_chats(page).get_by_role("button", name="Settings").click()
    page.get_by_label("Language").select_option("zh")
    page.get_by_role("button", name="新对话").wait_for()
    assert page.get_by_role("article", name="助手").locator("> .prose").inner_text() == "Hello world!"
    page.reload()
    page.get_by_role("textbox", name="消息").wait_for()


def test_arabic_reads_from_right_to_left(open_page: OpenPage, ask: Ask) -> None:
    page = open_page(locale="ar-EG", width=360, height=740)
    assert page.evaluate("[document.documentElement.dir, document.documentElement.lang]") == ["rtl", "ar"]
    page.get_by_role("textbox", name="الرسالة").fill("arabic please")
    page.get_by_role("button", name="إرسال").click()
    page.get_by_text("And one line in English.").wait_for()
    page.get_by_role("button", name="إرسال").wait_for()
    first, second = page.locator("article.assistant .prose p").all()
    assert first.evaluate("e => getComputedStyle(e).direction") == "rtl"
    assert second.evaluate("e => getComputedStyle(e).direction") == "ltr"
    menu, send = (page.locator(selector).bounding_box() for selector in (".icon-menu", ".send:visible"))
    assert menu["x"] > 180 > send["x"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_width_has_no_sideways_scroll(open_page: OpenPage, ask: Ask, scheme: str) -> None:
    page = open_page(width=360, height=740, color_scheme=scheme)
    overflow = "document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(overflow) <= 0
    ask(page, "code please")
    assert page.evaluate(overflow) <= 0
    assert page.locator(".column").evaluate("e => e.scrollWidth - e.clientWidth") <= 0
    assert page.locator(".composer").evaluate("e => e.scrollWidth - e.clientWidth") <= 0
    show_chats(page)
    assert page.evaluate(overflow) <= 0
    page.keyboard.press("Escape")
    assert page.get_by_role("navigation", name="Chats").count() == 0
