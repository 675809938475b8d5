"""The page's modules one by one, inside Chromium: cut anywhere, they give the same."""

from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(browser: Any, shared_app: Any) -> Iterator[Any]:
    """One page for all tests here: they only call its modules."""
    page = browser.new_page(locale="en-GB", service_workers="block")
    page.goto(shared_app.url)
    page.locator(".composer textarea").wait_for()
    yield page
    page.close()


TEXTS = [
    "A paragraph\nof two lines.\n\n1. one\n2. two\n\n3. loose three\n\n   still three\n\nEnd **bold `code`** text.",
    "# Head\n\n- a\n  - b\n\n    ```js\n    let x = 1;\n    ```\n- c\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\nafter",
    "text\n---\n\n> quote\nlazy\n>\n> more\n\n```\nopen fence\n\n# not a head\n",
    "See [the page][1] and \\[ x^2\n + 1 \\] and $a_b$.\n\n$$\ny = 1\n$$\n\n[1]: https://example.org/x\n",
    "中文段落，很长。\n\n* 一\n* 二\n\nمرحبا **بالعالم**\n\n***\n\nlast\r\nline\r\n\r\nend",
]

# Every frame comes at once, so each cut is rendered; what is typeset later is waited for before comparing.
STREAMED = """async (texts) => {
    const { GrowingText, wholeText } = await import("/static/js/growing.js");
    const frames = globalThis.requestAnimationFrame;
    globalThis.requestAnimationFrame = (callback) => { callback(Infinity); return 0; };
    const pairs = texts.flatMap((text) => [1, 2, 5, 1000].map((step) => {
        const growing = new GrowingText();
        document.body.append(growing.element);
        for (let at = 0; at < text.length; at += step) growing.append(text.slice(at, at + step));
        growing.finish();
        return [growing.element, wholeText(text)];
    }));
    const pending = (element) => element.querySelector(".math:not(.set), code[class*=language-]:not(.hljs)");
    globalThis.requestAnimationFrame = frames;
    while (pairs.flat().some(pending)) await new Promise((resolve) => setTimeout(resolve, 20));
    return pairs.map((pair) => pair.map((element) => element.innerHTML)).filter(([grown, whole]) => grown !== whole);
}"""


def test_a_text_that_grew_looks_like_one_shown_at_once(page: Any) -> None:
    assert page.evaluate(STREAMED, TEXTS) == []


EVENTS = """async () => {
    const { EventParser } = await import("/static/js/sse.js");
    const text = ": keep-alive\\n\\ndata: {\\"a\\": 1}\\r\\n\\r\\nevent: x\\ndata:two\\ndata: lines\\n\\n"
        + "id: 7\\rdata: \\u4f60\\u597d\\r\\rdata: [DONE]\\n\\ndata: never ended";
    const wanted = JSON.stringify([
        ["", "message", '{"a": 1}'], ["", "x", "two\\nlines"],
        ["7", "message", "\\u4f60\\u597d"], ["7", "message", "[DONE]"],
    ]);
    const wrong = [];
    for (let first = 0; first <= text.length; first += 1) {
        for (let second = first; second <= text.length; second += 1) {
            const parser = new EventParser();
            const events = [text.slice(0, first), text.slice(first, second), text.slice(second)]
                .flatMap((piece) => parser.push(piece)).map(({ id, event, data }) => [id, event, data]);
            if (JSON.stringify(events) !== wanted) wrong.push([first, second, events]);
        }
    }
    return wrong.slice(0, 5);
}"""


def test_events_are_the_same_wherever_the_stream_is_cut(page: Any) -> None:
    assert page.evaluate(EVENTS) == []


def test_characters_cut_between_packets_are_put_together(page: Any) -> None:
    texts = page.evaluate("""async () => {
        const { readEvents } = await import("/static/js/sse.js");
        const bytes = new TextEncoder().encode("data: 深度 🐋 مرحبا\\n\\n");
        const body = new ReadableStream({
            start(controller) {
                for (const byte of bytes) controller.enqueue(new Uint8Array([byte]));
                controller.close();
            },
        });
        const texts = [];
        for await (const { data } of readEvents({ body })) texts.push(data);
        return texts;
    }""")
    assert texts == ["深度 🐋 مرحبا"]


@pytest.mark.parametrize(
    ("ago", "name"), [(0, "Today"), (1, "Yesterday"), (3, "Sunday"), (30, "October"), (400, "October 2025")]
)
def test_days_have_the_names_that_people_use(page: Any, ago: int, name: str) -> None:
    now = "new Date(2026, 10, 25, 9).getTime()"
    day = f"async (ago) => (await import('/static/js/i18n.js')).dayName({now} - ago * 24 * 3600 * 1000, {now})"
    assert page.evaluate(day, ago) == name


@pytest.mark.parametrize(
    ("text", "settled"),
    [
        ("a **bold", "a **bold**"),
        ("a **bold** b", "a **bold** b"),
        ("a `cod", "a `cod`"),
        ("a `", "a "),
        ("a *", "a "),
        ("a\n-", "a"),
        ("a\n\n**x", "a\n\n**x**"),
        ("```\n**x", "```\n**x"),
        ("so it is [citat", "so it is "),
        ("so it is [citation:12", "so it is "),
    ],
)
def test_open_marks_do_not_flash(page: Any, text: str, settled: str) -> None:
    settle = "async (text) => (await import('/static/js/markdown.js')).settle(text)"
    assert page.evaluate(settle, text) == settled
