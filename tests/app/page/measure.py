"""Figures of the page, with a scripted engine that answers at once: `python tests/app/page/measure.py`."""

import importlib.util
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

VISIT = """() => [
    performance.getEntriesByName("first-paint")[0].startTime,
    [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
        .reduce((sum, entry) => sum + entry.transferSize, 0),
]"""
# From the key to the first word in the document.
ASK = """async () => {
    const answers = () => document.querySelectorAll("article.assistant");
    const before = answers().length;
    const box = document.querySelector(".composer textarea");
    box.value = "now";
    box.dispatchEvent(new Event("input"));
    const began = performance.now();
    box.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
    const log = document.querySelector("[role=log]");
    while (!answers()[before]?.querySelector(".prose").textContent.includes("Now"))
        await new Promise((resolve) => {
            const observer = new MutationObserver(() => { observer.disconnect(); resolve(); });
            observer.observe(log, { subtree: true, childList: true, characterData: true });
        });
    const took = performance.now() - began;
    while (answers()[before].getAttribute("aria-busy") === "true")
        await new Promise((resolve) => setTimeout(resolve, 5));
    return took;
}"""
SCROLL = """async () => {
    const scroller = document.querySelector(".scroller");
    const frames = [];
    let last = performance.now();
    for (let step = 0; step < 180; step += 1) {
        scroller.scrollTop = (scroller.scrollHeight * step) / 180;
        await new Promise(requestAnimationFrame);
        const now = performance.now();
        frames.push(now - last);
        last = now;
    }
    return frames;
}"""


def page_module() -> Any:
    spec = importlib.util.spec_from_file_location("page_conftest", Path(__file__).parent / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure(folder: Path) -> dict[str, float]:
    """First visit, time to the first word, frames of a scroll through 20,000 tokens."""
    conftest = page_module()
    conftest.SCENARIOS["now"] = lambda: ([conftest.Answer("Now")], 0.0)
    app = conftest.App(folder, conftest.free_port())
    app.start()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=conftest.FLAGS, chromium_sandbox=False
        )
        page = browser.new_page(service_workers="block")
        page.goto(app.url)
        page.locator(".starter").first.wait_for()
        paint, transferred = page.evaluate(VISIT)
        asked = [page.evaluate(ASK) for _ in range(21)][1:]
        page.goto(app.url)
        page.locator(".composer textarea").fill("long please")
        page.keyboard.press("Enter")
        page.locator("article.assistant[aria-busy=false]").wait_for()
        frames = sorted(page.evaluate(SCROLL))
        browser.close()
    app.stop()
    return {
        "first_paint_ms": paint,
        "first_visit_bytes": transferred,
        "enter_to_first_word_ms": statistics.median(asked),
        "enter_to_first_word_least_ms": min(asked),
        "scroll_frame_ms": frames[90],
        "scroll_frame_p95_ms": frames[171],
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FATHOM_HOME"] = folder
        print(json.dumps(measure(Path(folder)), indent=2))
