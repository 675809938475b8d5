"""The page as people use it, in a real headless Chromium, against a scripted API."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
Ask = Callable[..., None]
OpenPage = Callable[..., Any]


def answers(page: Any) -> Any:
    return page.get_by_role("article", name="assistant")


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.02)


def test_ask_and_answer(page: Any, mock: Any, ask: Ask) -> None:
    ask(page, "What is the capital of France?")
    log = page.get_by_role("log")
    assert log.get_by_role("article", name="user").inner_text().strip() == "What is the capital of France?"
    assert answers(page).locator(".prose strong").inner_text() == "world"
    body = mock.requests[0]
    assert body["messages"] == [{"role": "user", "content": "What is the capital of France?"}]
    assert (body["model"], body["stream"], body["thinking"]) == ("mock", True, {"type": "disabled"})
    ask(page, "And of Spain?")
    roles = [(message["role"], message["content"]) for message in mock.requests[1]["messages"]]
    assert roles[1:] == [("assistant", "Hello **world**!"), ("user", "And of Spain?")]
    assert page.title() == "What is the capital of France? · Fathom"
    page.get_by_role("button", name="Details").last.click()
    facts = answers(page).last.locator(".facts").inner_text()
    assert "3 tokens" in facts
    assert re.search(r"[\d.,]+ tokens/s", facts)
    assert page.get_by_text("On this machine").is_visible()


def test_stop_freezes_and_stays_stopped_after_reload(page: Any, mock: Any, ask: Ask) -> None:
    ask(page, "slow please", wait=False)
    page.get_by_text("Word20 ").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Send").wait_for()
    frozen = answers(page).locator(".prose").inner_text()
    wait_until(lambda: mock.cancelled == 1)
    page.wait_for_timeout(300)
    assert answers(page).locator(".prose").inner_text() == frozen
    page.reload()
    answers(page).get_by_text("Stopped").wait_for()
    assert answers(page).locator(".prose").inner_text() == frozen
    assert len(mock.requests) == 1
    assert page.get_by_role("button", name="Stop").is_hidden()


def test_reload_in_mid_stream_loses_nothing_that_was_shown(page: Any, mock: Any, ask: Ask) -> None:
    ask(page, "slow please", wait=False)
    page.get_by_text("Word40 ").wait_for()
    shown = answers(page).locator(".prose").inner_text()
    page.reload()
    answers(page).get_by_text("Stopped").wait_for()
    assert answers(page).locator(".prose").inner_text().startswith(shown.rstrip())
    wait_until(lambda: mock.cancelled == 1)
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('fathom.journal'))") == []


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


def test_20000_tokens_arrive_whole_and_the_page_stays_usable(page: Any, ask: Ask) -> None:
    """1,000 sentences of about 20 tokens, as fast as the connection carries them."""
    ask(page, "long please")
    text = answers(page).locator(".prose").inner_text()
    assert re.findall(r"Sentence (\d+) ", text) == [str(n) for n in range(1000)]
    scroller = page.locator(".scroller")
    assert scroller.evaluate("e => e.scrollHeight - e.scrollTop - e.clientHeight") < 48
    ask(page, "What is next?")
    assert answers(page).last.inner_text().strip() == "Hello world!"


def test_reader_who_scrolled_up_is_left_alone(page: Any, ask: Ask) -> None:
    ask(page, "slow please", wait=False)
    page.get_by_text("Word140 ").wait_for()
    page.mouse.move(600, 400)
    page.mouse.wheel(0, -5000)
    latest = page.get_by_role("button", name="Jump to latest")
    latest.wait_for()
    page.get_by_text("Word170 ").wait_for(state="attached")
    assert page.locator(".scroller").evaluate("e => e.scrollTop") == 0
    latest.click()
    page.wait_for_function(
        "() => { const e = document.querySelector('.scroller');"
        "return e.scrollHeight - e.scrollTop - e.clientHeight < 48 }"
    )
    assert latest.is_hidden()


def test_thought_is_folded_and_timed(page: Any, mock: Any, ask: Ask) -> None:
    toggle = page.get_by_role("button", name="DeepThink")
    assert toggle.get_attribute("aria-pressed") == "false"
    toggle.click()
    assert toggle.get_attribute("aria-pressed") == "true"
    ask(page, "think hard", wait=False)
    page.locator("summary", has_text="Thinking…").wait_for()
    page.get_by_role("button", name="Send").wait_for()
    assert mock.requests[0]["thinking"] == {"type": "enabled"}
    summary = page.locator("summary")
    assert summary.inner_text() == "Thought for 1 s"
    assert page.get_by_text("First I count.").is_hidden()
    summary.click()
    page.get_by_text("First I count. Then I check.").wait_for()
    assert answers(page).locator("> .prose").inner_text() == "The answer is 42."
    ask(page, "And now?")
    assert [set(message) for message in mock.requests[1]["messages"]] == [{"role", "content"}] * 3
    page.reload()
    assert page.locator("summary").inner_text() == "Thought for 1 s"
    assert page.get_by_role("button", name="DeepThink").get_attribute("aria-pressed") == "true"


def test_deep_think_says_when_the_model_cannot(open_page: OpenPage, mock: Any) -> None:
    mock.thinks = False
    page = open_page()
    page.get_by_role("button", name="DeepThink").click()
    page.get_by_role("status").get_by_text("mock answers at once").wait_for()
    page.get_by_role("button", name="DeepThink").click()
    assert page.get_by_role("status").inner_text() == ""


def test_search_says_that_it_is_not_there_yet(page: Any) -> None:
    search = page.get_by_role("button", name="Search")
    assert search.is_disabled()
    assert search.get_attribute("aria-pressed") == "false"
    assert search.get_attribute("title") == "Search is not built yet"


def test_markdown_code_formula_and_copy(open_page: OpenPage, ask: Ask) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    ask(page, "code please")
    prose = answers(page).locator(".prose")
    page.locator("code.hljs .hljs-keyword", has_text="def").wait_for()
    page.locator(".math.set math msup").wait_for()
    assert "It costs $5 and $10." in prose.inner_text()
    assert prose.locator("tbody tr").count() == 2
    assert prose.locator("td.align-right").first.evaluate("e => getComputedStyle(e).textAlign") == "right"
    page.get_by_role("button", name="Copy code").click()
    code = page.evaluate("navigator.clipboard.readText()")
    assert code.startswith("def area(width: float")
    assert code.endswith("return width * height\n")
    page.get_by_role("button", name="Copy answer").click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("Here is a function:\n\n```python\n")


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
    inside = answers(page).locator(".prose")
    for forbidden in (
        "script",
        "img",
        "iframe",
        "style",
        "form",
        "input",
        "svg:not(.icon)",
        "[onerror], [onload], [style]",
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


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("broken please", "The engine stumbled"),
        ("cut please", "The connection to the server was lost"),
        ("empty please", "The model gave an empty answer"),
    ],
)
def test_errors_are_said_and_can_be_retried(page: Any, mock: Any, ask: Ask, question: str, words: str) -> None:
    ask(page, question)
    alert = page.get_by_role("alert")
    assert words in alert.inner_text()
    alert.get_by_role("button", name="Retry").click()
    wait_until(lambda: len(mock.requests) == 2)
    assert mock.requests[0]["messages"] == mock.requests[1]["messages"]
    page.get_by_text("2 of 2").wait_for()


def test_busy_server_then_retry(page: Any, mock: Any, ask: Ask) -> None:
    mock.fail_next = 429
    ask(page, "Hello")
    assert "The server is busy" in page.get_by_role("alert").inner_text()
    page.get_by_role("button", name="Retry").click()
    page.get_by_text("Hello world!").wait_for()


def test_key_is_asked_for_and_kept_for_the_session(page: Any, mock: Any, ask: Ask) -> None:
    mock.key = "secret-key"
    ask(page, "Hello")
    page.get_by_label("API key").fill("secret-key")
    page.get_by_label("API key").press("Enter")
    page.get_by_text("Hello world!").wait_for()


def test_question_waits_for_a_model_that_is_loading(open_page: OpenPage, mock: Any, ask: Ask) -> None:
    mock.loading = True
    page = open_page()
    page.get_by_role("status").get_by_text("The model is loading…").wait_for()
    ask(page, "Are you there?", wait=False)
    answers(page).get_by_text("Your question is asked as soon as it is ready.").wait_for()
    assert mock.requests == []
    mock.loading = False
    page.get_by_text("Hello world!").wait_for()
    assert page.get_by_role("status").inner_text() == ""


def test_stop_while_the_model_is_loading(open_page: OpenPage, mock: Any, ask: Ask) -> None:
    mock.loading = True
    page = open_page()
    ask(page, "Are you there?", wait=False)
    page.keyboard.press("Escape")
    answers(page).get_by_text("Stopped").wait_for()
    mock.loading = False
    page.wait_for_timeout(700)
    assert mock.requests == []


def test_regenerate_and_edit_open_branches(page: Any, mock: Any, ask: Ask) -> None:
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
    assert [message["content"] for message in mock.requests[2]["messages"]] == ["code please"]
    page.reload()
    page.get_by_text("Here is a function:").wait_for()
    page.locator("article.user").get_by_role("button", name="Previous version").click()
    page.locator("article.user", has_text="First question").wait_for()
    assert answers(page).locator(".prose").inner_text() == "Hello world!"
    assert answers(page).get_by_text("2 of 2").is_visible()


def test_chats_are_kept_listed_and_deleted(page: Any, ask: Ask) -> None:
    ask(page, "First question")
    page.get_by_role("button", name="New chat").click()
    page.get_by_role("heading", name="What would you like to know?").wait_for()
    ask(page, "Second question")
    page.get_by_role("button", name="Show chats").click()
    chats = page.get_by_role("navigation", name="Chats")
    assert chats.locator(".open").all_inner_texts() == ["Second question", "First question"]
    chats.get_by_role("button", name="First question", exact=True).click()
    page.locator("article.user", has_text="First question").wait_for()
    chats.get_by_role("button", name="Delete: First question").click()
    page.get_by_role("heading", name="What would you like to know?").wait_for()
    page.reload()
    page.get_by_role("navigation", name="Chats").locator(".open").wait_for()
    assert chats.locator(".open").all_inner_texts() == ["Second question"]


def test_answer_goes_on_while_another_chat_is_open(page: Any, ask: Ask) -> None:
    ask(page, "ponder please", wait=False)
    page.locator("summary").wait_for()
    page.get_by_role("button", name="New chat").click()
    ask(page, "Hello")
    page.get_by_role("button", name="Show chats").click()
    page.get_by_role("button", name="ponder please", exact=True).click()
    page.locator("summary", has_text="Thinking…").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.locator("summary", has_text="Thought for").wait_for()


def test_second_tab_sees_the_answer_grow(page: Any, mock: Any, ask: Ask) -> None:
    ask(page, "slow please", wait=False)
    page.get_by_text("Word10 ").wait_for()
    other = page.context.new_page()
    other.goto(mock.url)
    other.get_by_role("button", name="Show chats").click()
    other.get_by_role("button", name="slow please", exact=True).click()
    other.get_by_text("Word60 ").wait_for()
    assert other.get_by_text("Stopped").count() == 0
    page.get_by_role("button", name="Stop").click()
    other.get_by_text("Stopped").wait_for()


def test_starter_asks_its_question(page: Any, mock: Any) -> None:
    page.get_by_role("button", name="A short poem").click()
    page.get_by_text("Hello world!").wait_for()
    assert mock.requests[0]["messages"][0]["content"] == "Write a short poem about the sea at night."


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


def test_language_switch_keeps_the_conversation(page: Any, ask: Ask) -> None:
    ask(page, "Hello")
    page.get_by_role("button", name="Show chats").click()
    page.get_by_label("Language").select_option("zh")
    page.get_by_role("button", name="新对话").wait_for()
    assert page.get_by_role("article", name="助手").locator(".prose").inner_text() == "Hello world!"
    page.reload()
    page.get_by_role("textbox", name="消息").wait_for()


def test_languages_have_the_same_texts(page: Any) -> None:
    shapes = page.evaluate("""async () => {
        const shape = (value) => Array.isArray(value) ? value.length
            : value && typeof value === "object"
            ? Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, shape(inner)]))
            : typeof value === "function" ? `function of ${value.length}` : "text";
        const load = async (tag) => shape((await import(`/static/js/i18n/${tag}.js`)).default);
        return Promise.all(["en", "zh", "ar"].map(load));
    }""")
    assert shapes[0] == shapes[1] == shapes[2]
    assert len(shapes[0]) > 40


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_width_has_no_sideways_scroll(open_page: OpenPage, ask: Ask, scheme: str) -> None:
    page = open_page(width=360, height=740, color_scheme=scheme)
    overflow = "document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(overflow) <= 0
    ask(page, "code please")
    assert page.evaluate(overflow) <= 0
    assert page.locator(".column").evaluate("e => e.scrollWidth - e.clientWidth") <= 0
    page.get_by_role("button", name="Show chats").click()
    assert page.evaluate(overflow) <= 0
    page.keyboard.press("Escape")
    assert page.get_by_role("navigation", name="Chats").count() == 0


def test_keyboard_alone(page: Any, mock: Any) -> None:
    page.keyboard.type("slow first line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    page.keyboard.press("Enter")
    page.get_by_text("Word5 ").wait_for()
    assert mock.requests[0]["messages"][0]["content"] == "slow first line\nsecond line"
    page.keyboard.press("Escape")
    answers(page).get_by_text("Stopped").wait_for()
    box = page.get_by_role("textbox", name="Message")
    assert box.evaluate("e => e === document.activeElement")
    page.keyboard.press("Tab")
    focused = page.evaluate("[document.activeElement.innerText, getComputedStyle(document.activeElement).outlineStyle]")
    assert focused == ["DeepThink", "solid"]
    page.keyboard.press("Space")
    assert page.get_by_role("button", name="DeepThink").get_attribute("aria-pressed") == "true"


def test_enter_of_an_input_method_does_not_send(page: Any, mock: Any) -> None:
    box = page.get_by_role("textbox", name="Message")
    box.fill("ni hao")
    press = "(e, options) => e.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, ...options}))"
    box.evaluate(press, {"isComposing": True})
    box.evaluate(press, {"keyCode": 229})
    page.wait_for_timeout(100)
    assert mock.requests == []
    box.evaluate(press, {})
    page.get_by_text("Hello world!").wait_for()


@pytest.mark.parametrize(("scheme", "locale"), [("light", "en-GB"), ("dark", "ar-EG")])
def test_axe_finds_nothing(open_page: OpenPage, scheme: str, locale: str) -> None:
    """WCAG 2.2 A and AA as far as axe-core can tell, with a thought, an error and the list of chats in view."""
    page = open_page(color_scheme=scheme, locale=locale, reduced_motion="reduce")
    assert axe(page) == []
    for number, question in enumerate(("think hard", "code please", "broken please")):
        page.locator(".composer textarea").fill(question)
        page.locator(".composer textarea").press("Enter")
        page.locator("article.assistant").nth(number).and_(page.locator('[aria-busy="false"]')).wait_for()
    page.locator("summary").click()
    page.locator(".icon-menu").click()
    page.locator("code.hljs").wait_for()
    assert axe(page) == []


def axe(page: Any) -> list[str]:
    """What axe-core finds, evaluated by the driver, which the page's policy does not bind."""
    page.evaluate(AXE.read_text("utf-8") + "; undefined")
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = page.evaluate("tags => axe.run({runOnly: tags})", tags)
    return [f"{rule['id']}: {node['html']}" for rule in found["violations"] for node in rule["nodes"]]
