"""The page's modules one by one, inside Chromium: cut anywhere, they give the same."""

from typing import Any

import pytest

pytestmark = pytest.mark.browser

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
    globalThis.requestAnimationFrame = (callback) => { callback(Infinity); return 0; };
    const pairs = texts.flatMap((text) => [1, 2, 5, 1000].map((step) => {
        const growing = new GrowingText();
        document.body.append(growing.element);
        for (let at = 0; at < text.length; at += step) growing.append(text.slice(at, at + step));
        growing.finish();
        return [growing.element, wholeText(text)];
    }));
    const pending = (element) => element.querySelector(".math:not(.set), code[class*=language-]:not(.hljs)");
    while (pairs.flat().some(pending)) await new Promise((resolve) => setTimeout(resolve, 20));
    return pairs.map((pair) => pair.map((element) => element.innerHTML)).filter(([grown, whole]) => grown !== whole);
}"""


def test_a_text_that_grew_looks_like_one_shown_at_once(page: Any) -> None:
    assert page.evaluate(STREAMED, TEXTS) == []


EVENTS = """async () => {
    const { EventParser } = await import("/static/js/sse.js");
    const text = ": keep-alive\\n\\ndata: {\\"a\\": 1}\\r\\n\\r\\nevent: x\\ndata:two\\ndata: lines\\n\\n"
        + "id: 7\\rdata: \\u4f60\\u597d\\r\\rdata: [DONE]\\n\\ndata: never ended";
    const wanted = JSON.stringify(['{"a": 1}', "two\\nlines", "\\u4f60\\u597d", "[DONE]"]);
    const wrong = [];
    for (let first = 0; first <= text.length; first += 1) {
        for (let second = first; second <= text.length; second += 1) {
            const parser = new EventParser();
            const events = [text.slice(0, first), text.slice(first, second), text.slice(second)]
                .flatMap((piece) => parser.push(piece));
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
        for await (const text of readEvents({ body })) texts.push(text);
        return texts;
    }""")
    assert texts == ["深度 🐋 مرحبا"]


def test_store_forgets_the_oldest_chats_beyond_its_bound(page: Any) -> None:
    kept = page.evaluate("""async () => {
        const { MAX_CHATS, Store } = await import("/static/js/store.js");
        const store = await Store.open();
        for (let n = 0; n < MAX_CHATS + 3; n += 1)
            await store.put({ id: `chat${n}`, title: `Chat ${n}`, updated: n, leaf: null, messages: [] });
        const chats = await store.list();
        return [chats.length - MAX_CHATS, chats[0].id, chats.at(-1).id];
    }""")
    assert kept == [0, "chat202", "chat3"]


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
    ],
)
def test_open_marks_do_not_flash(page: Any, text: str, settled: str) -> None:
    settle = "async (text) => (await import('/static/js/markdown.js')).settle(text)"
    assert page.evaluate(settle, text) == settled
