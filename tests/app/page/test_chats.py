"""Chats: found, named, filed, shared, exported; branches and tabs."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

Ask = Callable[..., None]
OpenPage = Callable[..., Any]


def rendered(app: Any) -> list[tuple[str, str | None]]:
    """What the model was last asked, titles apart."""
    asked = [
        all_of for all_of in app.engine.template.rendered if not (all_of[-1].content or "").startswith("Write a ti")
    ]
    return [(message.role, message.content) for message in asked[-1]]


def show_chats(page: Any) -> Any:
    page.get_by_role("button", name="Show chats").click()
    return page.get_by_role("navigation", name="Chats")


# ---- branches and chats ----


def test_chats_are_listed_named_pinned_filed_and_deleted(page: Any, ask: Ask) -> None:
    ask(page, "First question")
    page.get_by_role("button", name="New chat").click()
    page.get_by_role("heading", name="What would you like to know?").wait_for()
    ask(page, "Second question")
    chats = show_chats(page)
    assert chats.locator(".open").all_inner_texts() == ["Second question", "First question"]

    def act(chat: str, action: str) -> None:
        chats.get_by_role("button", name=f"Actions for {chat}").click()
        page.get_by_role("menuitem", name=action).click()

    act("First question", "Rename")
    page.get_by_role("textbox", name="Rename").fill("Dinner")
    page.keyboard.press("Enter")
    chats.get_by_role("button", name="Dinner", exact=True).wait_for()
    act("Dinner", "Pin")
    chats.get_by_role("heading", name="Pinned").wait_for()
    assert chats.locator(".open").all_inner_texts() == ["Dinner", "Second question"]
    act("Second question", "Move to a folder")
    page.get_by_role("button", name="New folder").click()
    page.get_by_role("textbox", name="Name of the folder").fill("School")
    page.keyboard.press("Enter")
    chats.get_by_role("button", name="School").click()
    assert chats.get_by_role("button", name="Second question", exact=True).is_hidden()
    chats.get_by_role("button", name="School").click()
    act("Second question", "Delete")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.get_by_role("heading", name="What would you like to know?").wait_for()
    page.reload()
    chats.locator(".open").wait_for()
    assert chats.locator(".open").all_inner_texts() == ["Dinner"]


def test_words_are_found_in_old_chats(page: Any, app: Any, ask: Ask) -> None:
    ask(page, "A recipe with lentils")
    page.get_by_role("button", name="New chat").click()
    ask(page, "A poem about the sea")
    chats = show_chats(page)
    chats.get_by_role("searchbox", name="Find in chats").fill("lentils")
    chats.locator(".found").wait_for()
    assert chats.locator(".found-title").all_inner_texts() == ["A recipe with lentils"]
    chats.locator(".found .open").click()
    page.locator("article.user", has_text="lentils").wait_for()
    chats.get_by_role("searchbox").fill("wombat")
    chats.get_by_text("No chat holds “wombat”.").wait_for()
    chats.get_by_role("searchbox").press("Escape")
    assert chats.locator(".open").count() == 2


def test_back_and_forward_move_between_chats(page: Any, ask: Ask) -> None:
    ask(page, "First question")
    page.get_by_role("button", name="New chat").click()
    ask(page, "Second question")
    page.go_back()
    page.locator("article.user", has_text="First question").wait_for()
    page.go_forward()
    page.locator("article.user", has_text="Second question").wait_for()


def test_answer_goes_on_while_another_chat_is_open(page: Any, ask: Ask) -> None:
    page.get_by_role("button", name="DeepThink").click()
    ask(page, "ponder please", wait=False)
    page.locator("summary").wait_for()
    page.get_by_role("button", name="New chat").click()
    ask(page, "Hello")
    chats = show_chats(page)
    chats.get_by_role("img", name="An answer is on its way").wait_for()
    chats.get_by_role("button", name="ponder please", exact=True).click()
    page.locator("summary", has_text="Thinking…").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.locator("summary", has_text="Thought for").wait_for()


def test_starter_asks_its_question(page: Any, app: Any) -> None:
    page.get_by_role("button", name="A short poem").click()
    page.get_by_text("Hello world!").wait_for()
    assert rendered(app) == [("user", "Write a short poem about the sea at night.")]


def test_the_models_title_replaces_the_first_words(page: Any, app: Any, ask: Ask) -> None:
    app.engine.title = "Sea at night"
    ask(page, "Write about the sea, please")
    page.wait_for_function("() => document.title === 'Sea at night · Fathom'")
    show_chats(page).get_by_role("button", name="Sea at night", exact=True).wait_for()


def test_share_is_a_copy_to_read_only(page: Any, open_any: OpenPage, app: Any, ask: Ask) -> None:
    ask(page, "code please")
    chats = show_chats(page)
    chats.get_by_role("button", name="Actions for code please").click()
    page.get_by_role("menuitem", name="Share").click()
    page.get_by_role("button", name="Create link").click()
    link = page.get_by_role("textbox", name="Shared link").input_value()
    reader = open_any(link)
    reader.get_by_text("Here is a function:").wait_for()
    assert reader.get_by_role("textbox").count() == 0
    assert reader.get_by_role("button", name="Regenerate").count() == 0
    page.get_by_role("button", name="Remove link").click()
    page.get_by_role("button", name="Create link").wait_for()
    reader.reload()
    reader.get_by_text("This chat is not shared").wait_for()


def test_rating_is_kept(page: Any, ask: Ask) -> None:
    ask(page, "Hello")
    good = page.get_by_role("button", name="Good answer")
    good.click()
    assert good.get_attribute("aria-pressed") == "true"
    page.wait_for_timeout(200)
    page.reload()
    good.wait_for()
    assert good.get_attribute("aria-pressed") == "true"


def test_export_and_import_bring_a_chat_back(page: Any, app: Any, ask: Ask, tmp_path: Any) -> None:
    ask(page, "First question")
    chats = show_chats(page)
    with page.expect_download() as download:
        chats.get_by_role("button", name="Actions for First question").click()
        page.get_by_role("menuitem", name="Save as Markdown").click()
    assert "Hello **world**!" in (download.value.path()).read_text("utf-8")
    with page.expect_download() as download:
        chats.get_by_role("button", name="More", exact=True).click()
        page.get_by_role("menuitem", name="Export all chats").click()
    kept = tmp_path / "chats.json"
    download.value.save_as(kept)
    app.call("DELETE", "chats")
    page.reload()
    chats.get_by_text("Your conversations will appear here.").wait_for()
    with page.expect_file_chooser() as chooser:
        chats.get_by_role("button", name="More", exact=True).click()
        page.get_by_role("menuitem", name="Import chats").click()
    chooser.value.set_files(kept)
    page.get_by_text("1 chat was imported").wait_for()
    chats.get_by_role("button", name="First question", exact=True).click()
    page.get_by_text("Hello world!").wait_for()
