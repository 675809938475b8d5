"""Files with a question: chosen, dropped, pasted; taken or refused with a reason."""

from typing import Any

import pytest

pytestmark = pytest.mark.browser


def file(name: str, text: str = "The capital of Freedonia is Fredville.") -> dict[str, Any]:
    return {"name": name, "mimeType": "text/plain", "buffer": text.encode()}


def test_a_file_goes_with_the_question(page: Any, app: Any, ask: Any) -> None:
    hostile = "<img src=x onerror=pwned>.txt"
    page.locator("input[type=file]").set_input_files(
        [file("facts.txt"), file(hostile), file("virus.xyz"), file("no.txt", "")]
    )
    chips = page.locator(".composer .chip")
    page.locator(".composer .chip.taken").nth(1).wait_for()
    assert chips.filter(has_text="facts.txt").get_by_text("38 bytes").count() == 1
    alerts = page.locator(".composer").get_by_role("alert")
    assert alerts.all_inner_texts() == ["Files of the kind .xyz cannot be read.", "This file is empty."]
    page.get_by_role("button", name="Remove virus.xyz").click()
    page.get_by_role("button", name="Remove no.txt").click()
    assert chips.count() == 2
    ask(page, "What is its capital?")
    assert chips.count() == 0
    asked = page.get_by_role("article", name="user")
    assert asked.locator(".chip-title").all_inner_texts() == ["facts.txt", hostile]
    told = next(request.prompt.text for request in app.engine.requests)
    assert "[file name]: facts.txt" in told
    assert "Fredville" in told
    page.reload()
    asked.locator(".chip", has_text="facts.txt").wait_for()
    assert page.locator("img[src=x]").count() == 0


def test_a_file_can_be_dropped_and_pasted(page: Any) -> None:
    give = """kind => {
        const data = new DataTransfer();
        data.items.add(new File(["some words"], `${kind}.txt`, {type: "text/plain"}));
        const options = {dataTransfer: data, bubbles: true, cancelable: true};
        if (kind === "dropped") {
            document.body.dispatchEvent(new DragEvent("dragover", options));
            globalThis.hint = document.querySelector(".drop").textContent;
            document.body.dispatchEvent(new DragEvent("drop", options));
        } else {
            const box = document.querySelector(".composer textarea");
            box.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true}));
        }
    }"""
    page.evaluate(give, "dropped")
    assert page.evaluate("globalThis.hint") == "Drop files to ask about them"
    page.evaluate(give, "pasted")
    page.locator(".composer .chip.taken").nth(1).wait_for()
    assert page.locator(".composer .chip-title").all_inner_texts() == ["dropped.txt", "pasted.txt"]
    assert page.locator(".drop").count() == 0
