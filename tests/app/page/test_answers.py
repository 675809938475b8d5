"""Answers as they come: long ones, ones that fail, ones that wait."""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

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


def show_chats(page: Any) -> Any:
    page.get_by_role("button", name="Show chats").click()
    return page.get_by_role("navigation", name="Chats")


def test_an_answer_goes_on_without_any_page_and_is_there_on_return(open_page: OpenPage, app: Any, ask: Ask) -> None:
    page = open_page()
    ask(page, "slow please", wait=False)
    page.get_by_text("Word5 ").first.wait_for()
    address = page.evaluate("location.hash")
    page.close()
    phone = open_page(f"/{address}", width=390, height=800)
    phone.get_by_text("Word60 ").wait_for()
    phone.get_by_role("button", name="Stop").click()
    phone.get_by_text("Stopped").wait_for()
    assert len(app.engine.requests) == 1


WATCH = """() => {
    const log = document.querySelector('[role=log]');
    const seen = globalThis.seen = {frames: 0, shrank: 0, blank: 0, height: 0};
    const look = () => {
        const article = log.querySelector('article.assistant');
        const height = article ? article.querySelector(':scope > .prose').offsetHeight : 0;
        seen.frames += 1;
        if (height < seen.height) seen.shrank += 1;
        if (seen.height && !log.innerText.trim()) seen.blank += 1;
        seen.height = height;
        if (!article || article.getAttribute('aria-busy') === 'true') requestAnimationFrame(look);
    };
    look();
}"""


@pytest.mark.parametrize("question", ["code please", "long please"])
def test_never_shrinks_or_blanks_in_mid_stream(page: Any, ask: Ask, question: str) -> None:
    page.evaluate(WATCH)
    ask(page, question)
    seen = page.evaluate("seen")
    assert seen["frames"] > 10
    assert seen["height"] > 200
    assert (seen["shrank"], seen["blank"]) == (0, 0)


SCROLL = """async () => {
    const scroller = document.querySelector('.scroller');
    const frames = [];
    const step = scroller.scrollHeight / 60;
    let last = performance.now();
    for (let place = 0; place < scroller.scrollHeight; place += step) {
        scroller.scrollTop = place;
        const now = await new Promise(requestAnimationFrame);
        frames.push(now - last);
        last = now;
    }
    return frames.sort((a, b) => a - b)[30];
}"""


def test_20000_tokens_arrive_whole_and_the_page_stays_usable(page: Any, ask: Ask) -> None:
    """1,000 sentences of about 20 tokens, as fast as the connection carries them."""
    ask(page, "long please")
    # What is out of sight is not drawn, but it is there.
    text = prose(page).evaluate("element => element.textContent")
    assert re.findall(r"Sentence (\d+) ", text) == [str(n) for n in range(1000)]
    assert prose(page).evaluate("e => getComputedStyle(e.firstElementChild).contentVisibility") == "auto"
    scroller = page.locator(".scroller")
    assert scroller.evaluate("e => e.scrollHeight - e.scrollTop - e.clientHeight") < 48
    assert page.evaluate(SCROLL) < 100, "half of all frames take longer than a tenth of a second"
    ask(page, "What is next?")
    assert prose(page).last.inner_text().strip() == "Hello world!"


def test_reading_above_is_not_disturbed(page: Any, ask: Ask) -> None:
    ask(page, "long please")
    ask(page, "slow please", wait=False)
    page.get_by_text("Word30 ").wait_for()
    page.locator(".scroller").evaluate("e => e.scrollTo(0, 400)")
    latest = page.get_by_role("button", name="Jump to latest")
    latest.wait_for()
    page.get_by_text("Word80 ").wait_for()
    assert page.locator(".scroller").evaluate("e => e.scrollTop") == 400
    latest.click()
    page.wait_for_function(
        "() => { const e = document.querySelector('.scroller');"
        "return e.scrollHeight - e.scrollTop - e.clientHeight < 48 }"
    )
    assert latest.is_hidden()
    page.get_by_role("button", name="Stop").click()


# ---- DeepThink ----


def test_deep_think_says_when_the_model_cannot(open_page: OpenPage, app: Any) -> None:
    app.engine.template.thinks = False
    page = open_page()
    page.get_by_role("button", name="DeepThink").click()
    page.get_by_role("status").get_by_text("scripted:1b answers at once").wait_for()
    page.get_by_role("button", name="DeepThink").click()
    page.get_by_text("scripted:1b answers at once").wait_for(state="hidden")


# ---- what an answer may hold ----


def test_markdown_code_formula_and_copy(open_page: OpenPage, ask: Ask) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    ask(page, "code please")
    page.locator("code.hljs .hljs-keyword", has_text="def").wait_for()
    page.locator(".math.set math msup").wait_for()
    assert "It costs $5 and $10." in prose(page).inner_text()
    assert prose(page).locator("tbody tr").count() == 2
    assert prose(page).locator("td.align-right").first.evaluate("e => getComputedStyle(e).textAlign") == "right"
    page.get_by_role("button", name="Copy code").click()
    code = page.evaluate("navigator.clipboard.readText()")
    assert code.startswith("def area(width: float")
    assert code.endswith("return width * height\n")
    page.get_by_role("button", name="Copy answer").click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("Here is a function:\n\n```python\n")
    page.get_by_role("button", name="More ways to copy").click()
    page.get_by_role("menuitem", name="Copy as plain text").click()
    page.get_by_text("Copied", exact=True).wait_for()
    assert "```" not in page.evaluate("navigator.clipboard.readText()")


def test_hostile_titles_and_questions_are_words(open_page: OpenPage, app: Any, ask: Ask) -> None:
    words = '<img src=x onerror="window.pwned=1">'
    page = open_page()
    ask(page, words)
    chat = app.call("GET", "chats")["chats"][0]["id"]
    app.call("PATCH", f"chats/{chat}", json={"title": words, "folder": words})
    page.reload()
    chats = show_chats(page)
    chats.locator(".folder", has_text=words).wait_for()
    assert chats.locator(".open").inner_text() == words
    chats.get_by_role("searchbox").fill("onerror")
    chats.locator(".snippet mark").first.wait_for()
    assert page.title() == f"{words} · Fathom"
    assert page.locator("img[src=x]").count() == 0
    assert page.evaluate("window.pwned") is None


# ---- what goes wrong ----


@pytest.mark.parametrize(
    ("question", "words"),
    [("broken please", "The engine failed on this answer"), ("empty please", "The model gave an empty answer")],
)
def test_errors_are_said_and_can_be_retried(page: Any, app: Any, ask: Ask, question: str, words: str) -> None:
    ask(page, question)
    alert = page.get_by_role("alert")
    assert words in alert.inner_text()
    alert.get_by_role("button", name="Retry").click()
    wait_until(lambda: len(app.engine.requests) == 2)
    page.get_by_text("2 of 2").wait_for()


def test_a_question_that_the_server_never_got_can_be_asked_again(page: Any, app: Any, ask: Ask) -> None:
    page.route("**/answers", lambda route: route.abort())
    ask(page, "Hello")
    assert "The connection to the server was lost" in page.get_by_role("alert").inner_text()
    page.unroute("**/answers")
    page.get_by_role("button", name="Retry").click()
    page.get_by_text("Hello world!").wait_for()
    assert page.get_by_role("article").count() == 2
    assert len(app.engine.requests) == 1


def test_place_in_the_queue(page: Any, app: Any, ask: Ask) -> None:
    app.engine.queue = 3
    ask(page, "Hello", wait=False)
    answers(page).get_by_text("You are number 3 in the queue…").wait_for()
    app.engine.queue = 1
    answers(page).get_by_text("You are number 1 in the queue…").wait_for()
    app.engine.queue = 0
    page.get_by_text("Hello world!").wait_for()


def test_question_waits_for_a_model_that_is_loading(own_app: Any, open_any: OpenPage, ask: Ask) -> None:
    own_app.loading.set()
    own_app.start()
    page = open_any(own_app.url)
    page.get_by_role("status").get_by_text("The model is loading…").wait_for()
    ask(page, "Are you there?", wait=False)
    answers(page).get_by_text("Your question is asked as soon as it is ready.").wait_for()
    assert own_app.engine.requests == []
    own_app.loading.clear()
    page.get_by_text("Hello world!").wait_for()
    page.wait_for_function("() => document.querySelector('.server-state').textContent === ''")
