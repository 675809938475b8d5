"""Settings, prompts, languages, colours, keys."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

Ask = Callable[..., None]


def rendered(app: Any) -> list[tuple[str, str | None]]:
    """What the model was last asked, titles apart."""
    asked = [
        all_of for all_of in app.engine.template.rendered if not (all_of[-1].content or "").startswith("Write a ti")
    ]
    return [(message.role, message.content) for message in asked[-1]]


def show_chats(page: Any) -> Any:
    page.get_by_role("button", name="Show chats").click()
    return page.get_by_role("navigation", name="Chats")


# ---- settings, prompts, files ----


def test_settings_reach_the_model(page: Any, app: Any, ask: Ask) -> None:
    show_chats(page).get_by_role("button", name="Settings").click()
    page.get_by_role("textbox", name="System prompt").fill("Speak like a pirate.")
    page.get_by_role("textbox", name="System prompt").press("Tab")
    page.get_by_role("dialog").get_by_text("Saved").or_(page.get_by_text("Saved")).first.wait_for()
    page.get_by_role("switch", name="Automatic").click()
    page.get_by_role("slider", name="Temperature").fill("1.2")
    page.get_by_role("switch", name="Memory").click()
    page.get_by_role("textbox", name="Something to remember").fill("My name is Anna.")
    page.keyboard.press("Enter")
    page.get_by_text("My name is Anna.").wait_for()
    page.keyboard.press("Escape")
    ask(page, "Hello")
    (role, system), _ = rendered(app)
    assert role == "system"
    assert "Speak like a pirate." in (system or "")
    assert "My name is Anna." in (system or "")
    assert app.engine.requests[0].params.temperature == 1.2


def test_prompts_are_kept_and_put_into_the_box(page: Any) -> None:
    def open_prompts() -> None:
        page.get_by_role("button", name="Files and prompts").click()
        page.get_by_role("menuitem", name="Prompts").click()

    box = page.get_by_role("textbox", name="Message")
    box.fill("Proofread this: ")
    open_prompts()
    page.get_by_role("textbox", name="Name").fill("Proofreading")
    page.get_by_role("button", name="Save prompt").click()
    page.get_by_role("dialog").get_by_role("listitem").filter(has_text="Proofreading").wait_for()
    page.keyboard.press("Escape")
    box.fill("")
    open_prompts()
    page.get_by_role("dialog").get_by_role("listitem").get_by_role("button", name="Proofreading").first.click()
    assert box.input_value() == "Proofread this:"
    open_prompts()
    page.get_by_role("button", name="Remove: Proofreading").click()
    page.get_by_text("Nothing is kept yet.").wait_for()


def test_colours_can_be_chosen(page: Any) -> None:
    def colour() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = colour()
    show_chats(page).get_by_role("button", name="Settings").click()
    page.get_by_label("Colours").select_option("dark")
    assert colour() != light
    page.reload()
    assert colour() != light


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
    assert len(shapes[0]) > 100


# ---- keyboard ----


def test_keyboard_alone(page: Any, app: Any) -> None:
    page.keyboard.type("slow first line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    page.keyboard.press("Enter")
    page.locator("article.assistant .prose p").first.wait_for()
    assert rendered(app) == [("user", "slow first line\nsecond line")]
    page.keyboard.press("Escape")
    page.locator(".composer .stop").wait_for(state="hidden")
    box = page.get_by_role("textbox", name="Message")
    assert box.evaluate("e => e === document.activeElement")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    focused = page.evaluate("[document.activeElement.innerText, getComputedStyle(document.activeElement).outlineStyle]")
    assert focused == ["DeepThink", "solid"]
    page.keyboard.press("Space")
    assert page.get_by_role("button", name="DeepThink").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Control+Shift+D")
    assert page.get_by_role("button", name="DeepThink").get_attribute("aria-pressed") == "false"
    page.keyboard.press("Control+k")
    assert page.get_by_role("searchbox", name="Find in chats").evaluate("e => e === document.activeElement")
    page.keyboard.press("Control+/")
    page.get_by_role("dialog", name="Keyboard shortcuts").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Escape")
    assert box.evaluate("e => e === document.activeElement")


def test_a_menu_is_moved_through_with_arrows(page: Any, ask: Ask) -> None:
    ask(page, "Hello")
    button = show_chats(page).get_by_role("button", name="Actions for Hello")
    button.focus()
    page.keyboard.press("Enter")
    page.get_by_role("menu").wait_for()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.innerText.trim()") == "Pin"
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.innerText.trim()") == "Delete"
    page.keyboard.press("Escape")
    assert page.get_by_role("menu").count() == 0
    assert button.evaluate("e => e === document.activeElement")


def test_enter_of_an_input_method_does_not_send(page: Any, app: Any) -> None:
    box = page.get_by_role("textbox", name="Message")
    box.fill("ni hao")
    press = "(e, options) => e.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, ...options}))"
    box.evaluate(press, {"isComposing": True})
    box.evaluate(press, {"keyCode": 229})
    page.wait_for_timeout(100)
    assert app.engine.requests == []
    box.evaluate(press, {})
    page.get_by_text("Hello world!").wait_for()
