// Where a question is written: the box, its two modes, and one place for Send and Stop.

import { el, icon } from "./dom.js";
import { t } from "./i18n.js";

const DEEP_THINK = "fathom.deepThink";

export class Composer {
  #running = false;

  /** `onSend(text)`, `onStop()`, `onMode()`: DeepThink was turned on or off. */
  constructor({ onSend, onStop, onMode }) {
    this.onSend = onSend;
    this.onMode = onMode;
    this.box = el("textarea", {
      rows: 1,
      "aria-label": t("message"),
      placeholder: t("placeholder"),
      enterkeyhint: "send",
      oninput: () => this.#changed(),
      onkeydown: (event) => this.#key(event),
    });
    this.deepThink = this.#toggle("think", t("deepThink"), t("deepThinkHint"));
    this.deepThink.setAttribute("aria-pressed", String(localStorage.getItem(DEEP_THINK) === "true"));
    this.deepThink.addEventListener("click", () => this.#flip());
    this.search = this.#toggle("globe", t("search"), t("searchHint"));
    this.search.disabled = true;
    this.send = el("button", { type: "button", class: "send", "aria-label": t("send"), title: t("send"), onclick: () => this.#submit() }, icon("send"));
    this.stop = el("button", { type: "button", class: "send stop", "aria-label": t("stop"), title: t("stop"), onclick: onStop }, icon("stop"));
    const tools = el("div", { class: "tools" }, this.deepThink, this.search, el("span", { class: "space" }), this.send, this.stop);
    this.element = el("div", { class: "composer" }, this.box, tools);
    this.running = false;
    this.#changed();
  }

  #toggle(name, label, hint) {
    return el("button", { type: "button", class: "toggle", "aria-pressed": "false", title: hint }, icon(name), label);
  }

  #flip() {
    const on = this.deepThink.getAttribute("aria-pressed") !== "true";
    this.deepThink.setAttribute("aria-pressed", String(on));
    localStorage.setItem(DEEP_THINK, String(on));
    this.onMode();
  }

  get thinks() {
    return this.deepThink.getAttribute("aria-pressed") === "true";
  }

  get text() {
    return this.box.value;
  }

  set text(value) {
    this.box.value = value;
    this.#changed();
  }

  /** Whether an answer is on its way: then the button stops it. */
  set running(value) {
    const focused = document.activeElement === this.stop || document.activeElement === this.send;
    this.#running = value;
    this.send.hidden = value;
    this.stop.hidden = !value;
    if (focused) this.box.focus();
  }

  #key(event) {
    // While an input method composes, Enter takes its proposal (229: the same, in Safari).
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    this.#submit();
  }

  #submit() {
    const text = this.box.value.trim();
    if (!text || this.#running) return;
    this.text = "";
    this.onSend(text);
  }

  #changed() {
    // An empty box takes the interface's direction, for its placeholder; then the question's own counts.
    this.box.dir = this.box.value ? "auto" : "";
    this.send.disabled = !this.box.value.trim();
    this.box.style.height = "auto";
    if (this.box.scrollHeight) this.box.style.height = `${this.box.scrollHeight}px`;
  }
}
