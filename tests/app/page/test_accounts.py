"""Where a server has accounts: signing in, each one's own chats, what an administrator does, signing out."""

from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PASSWORD = "correct horse battery"


def sign_in(page: Any, name: str, password: str = PASSWORD) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_two_people_and_their_administrator(own_app: Any, open_any: Any, ask: Any) -> None:
    own_app.start()
    own_app.context.users.add("anna", PASSWORD, admin=True)
    anna = open_any(own_app.url)
    sign_in(anna, "anna", "not the password")
    assert anna.get_by_role("alert").inner_text() == "This name and password do not belong together."
    sign_in(anna, "anna")
    ask(anna, "A question of Anna's")
    anna.get_by_role("button", name="Show chats").click()
    anna.get_by_role("button", name="More", exact=True).click()
    anna.get_by_role("menuitem", name="People").click()
    people = anna.get_by_role("dialog", name="People")
    people.get_by_label("Name").fill("ben")
    people.get_by_label("Password").fill(PASSWORD)
    people.get_by_role("button", name="Add a person").click()
    people.get_by_role("row", name="ben").wait_for()

    ben = open_any(own_app.url + "/" + anna.evaluate("location.hash"))
    sign_in(ben, "ben")
    ben.get_by_role("heading", name="What would you like to know?").wait_for()
    assert ben.get_by_text("A question of Anna's").count() == 0, "another person's chat does not exist"
    ben.get_by_role("button", name="Show chats").click()
    ben.get_by_text("Your conversations will appear here.").wait_for()
    ben.get_by_role("button", name="More", exact=True).click()
    assert ben.get_by_role("menuitem", name="People").count() == 0

    people.get_by_role("button", name="Actions for ben").click()
    anna.get_by_role("menuitem", name="Remove").click()
    anna.get_by_role("dialog", name="Remove ben?").get_by_role("button", name="Remove").click()
    people.get_by_role("row", name="ben").wait_for(state="detached")
    anna.keyboard.press("Escape")
    anna.get_by_role("button", name="More", exact=True).click()
    anna.get_by_role("menuitem", name="Sign out").click()
    anna.get_by_role("button", name="Sign in").wait_for()
