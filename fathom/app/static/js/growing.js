// A text that grows while it is shown. Finished blocks are rendered once and never touched again; only the last block is
// parsed again as it grows, at most once a frame, and what is shown never gets shorter while the text grows.

import { copyText, el, iconButton, morph } from "./dom.js";
import { highlight } from "./highlight.js";
import { t } from "./i18n.js";
import { hasDefinitions, lastBlockStart, render, sanitize, settle } from "./markdown.js";
import { typeset } from "./math.js";

// Rendering may take this share of the time at most, so a huge last block slows its own updates and not the page.
const SHARE = 0.25;
// From so many blocks on, those out of sight are not drawn (CSS content-visibility), so a long answer scrolls smoothly.
const LONG = 40;

export class GrowingText {
  #text = "";
  #finished = 0;
  #frame = 0;
  #notBefore = 0;
  #done = false;
  #tail = el("div", { class: "tail" });

  /** `onRender` is called after each change of what is shown; `adorn(root)` may change new DOM before it is shown. */
  constructor(onRender = () => {}, adorn = () => {}) {
    this.onRender = onRender;
    this.adorn = adorn;
    this.element = el("div", { class: "prose" }, this.#tail);
  }

  /** The whole text so far. */
  get source() {
    return this.#text;
  }

  append(text) {
    if (!text) return;
    const first = !this.#text;
    this.#text += text;
    this.#done = false;
    // The first word waits for nothing.
    if (first && this.element.isConnected) this.#render();
    else this.#schedule();
  }

  /** Begins again with another text. */
  restart(text) {
    this.#clear();
    this.#tail.replaceChildren();
    this.#text = text;
    this.#done = false;
    this.#schedule();
  }

  /** Shows everything now; no more text comes. */
  finish() {
    this.#done = true;
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#render();
  }

  /** Adorns again what is shown: something has become known that it depends on. */
  again() {
    this.adorn(this.element);
  }

  #schedule() {
    if (this.#frame || this.#done) return;
    this.#frame = requestAnimationFrame((now) => {
      this.#frame = 0;
      if (now < this.#notBefore) this.#schedule();
      else this.#render();
    });
  }

  #render() {
    const began = performance.now();
    if (this.#done && hasDefinitions(this.#text)) this.#clear();
    const open = this.#text.slice(this.#finished);
    const split = this.#done ? open.length : lastBlockStart(open);
    if (split) this.#settleBlocks(open.slice(0, split));
    this.#finished += split;
    const tail = open.slice(split);
    const shown = render(settle(tail));
    this.adorn(shown);
    morph(this.#tail, shown);
    this.#keepHeight();
    this.onRender();
    const ended = performance.now();
    this.#notBefore = ended + ((ended - began) * (1 - SHARE)) / SHARE;
  }

  // Link definitions may stand after the blocks that use them, so the whole text is rendered once more at the end.
  #clear() {
    for (const node of [...this.element.children]) if (node !== this.#tail) node.remove();
    this.#finished = 0;
  }

  #settleBlocks(text) {
    const fragment = render(text);
    this.adorn(fragment);
    const blocks = [...fragment.children];
    for (const block of blocks) block.style.containIntrinsicBlockSize = `auto ${guessedHeight(block)}px`;
    this.#tail.before(...blocks);
    this.element.classList.toggle("long", this.element.childElementCount > LONG);
    this.#tail.replaceChildren();
    for (const block of blocks) decorate(block);
  }

  #keepHeight() {
    if (this.#done) {
      this.element.style.minHeight = "";
      return;
    }
    this.element.style.minHeight = `${this.element.offsetHeight}px`;
  }
}

// The height of a block that has not been drawn yet: lines of the usual width in the usual type. What it was drawn with counts later.
function guessedHeight(block) {
  const lines = block.matches(".code") ? block.textContent.split("\n").length : Math.ceil(block.textContent.length / 98);
  return lines * 26 + 14;
}

/** A whole text, rendered at once. */
export function wholeText(text) {
  const growing = new GrowingText();
  growing.append(text);
  growing.finish();
  return growing.element;
}

function decorate(block) {
  const wrapper = block.parentNode;
  const codes = block.matches(".code") ? [block] : block.querySelectorAll(".code");
  for (const code of codes) code.querySelector(".code-head").append(copyCodeButton(code));
  const report = (error) => console.error(error);
  highlight(block).catch(report);
  typeset(block.matches(".math") ? wrapper : block, sanitize).catch(report);
}

function copyCodeButton(code) {
  return copyButton(t("copyCode"), () => code.querySelector("code").textContent);
}

/** A button that copies what `source()` returns and says so. */
export function copyButton(label, source) {
  const button = iconButton("copy", label, async () => {
    await copyText(source());
    button.classList.add("copied");
    button.setAttribute("title", t("copied"));
    setTimeout(() => {
      button.classList.remove("copied");
      button.setAttribute("title", label);
    }, 1500);
  });
  return button;
}
