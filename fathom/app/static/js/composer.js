// Where a question is written: the box, its files, its two modes, and one place for Send and Stop.

import { Attachments } from "./attachments.js";
import { menuButton } from "./dialog.js";
import { el, icon } from "./dom.js";
import { t } from "./i18n.js";

const DEEP_THINK = "fathom.deepThink";
const SEARCH = "fathom.search";

export class Composer {
  #running = false;

  /** `actions`: send({text, files}), stop(), mode(): a mode was turned on or off, upload(file, progress, signal), forget(file), prompts(). */
  constructor(actions) {
    this.actions = actions;
    this.files = new Attachments(actions, () => this.#changed());
    this.box = el("textarea", {
      rows: 1,
      "aria-label": t("message"),
      placeholder: t("placeholder"),
      enterkeyhint: "send",
      oninput: () => this.#changed(),
      onkeydown: (event) => this.#key(event),
      onpaste: (event) => this.#paste(event),
    });
    this.deepThink = this.#toggle("think", t("deepThink"), t("deepThinkHint"), DEEP_THINK);
    this.search = this.#toggle("globe", t("search"), t("searchHint"), SEARCH);
    this.picker = el("input", { type: "file", multiple: true, hidden: true, onchange: () => this.#picked() });
    const add = menuButton("plus", t("addToQuestion"), () => [
      this.files.limits.taken === false ? null : { icon: "clip", label: t("attach"), action: () => this.picker.click() },
      { icon: "book", label: t("prompts"), action: () => actions.prompts() },
    ]);
    this.send = el("button", { type: "button", class: "send", "aria-label": t("send"), title: t("send"), onclick: () => this.#submit() }, icon("send"));
    this.stop = el("button", { type: "button", class: "send stop", "aria-label": t("stop"), title: t("stop"), onclick: () => actions.stop() }, icon("stop"));
    const tools = el("div", { class: "tools" }, add, this.deepThink, this.search, el("span", { class: "space" }), this.picker, this.send, this.stop);
    this.element = el("div", { class: "composer" }, this.files.element, this.box, tools);
    this.running = false;
    this.#changed();
  }

  #toggle(name, label, hint, key) {
    const on = localStorage.getItem(key) === "true";
    const button = el("button", { type: "button", class: "toggle", "aria-pressed": String(on), title: hint, onclick: () => this.#flip(button, key) }, icon(name), el("span", {}, label));
    return button;
  }

  #flip(button, key) {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    localStorage.setItem(key, String(on));
    this.actions.mode();
  }

  /** What the server takes as files; `taken`: whether it takes any. */
  set limits(limits) {
    this.files.limits = limits;
    if (limits.extensions) this.picker.accept = limits.extensions.join(",");
  }

  get thinks() {
    return this.deepThink.getAttribute("aria-pressed") === "true";
  }

  get searches() {
    return this.search.getAttribute("aria-pressed") === "true";
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

  #paste(event) {
    const { files } = event.clipboardData;
    if (!files.length) return;
    event.preventDefault();
    this.files.add(files);
  }

  #picked() {
    this.files.add(this.picker.files);
    this.picker.value = "";
    this.box.focus();
  }

  get #sendable() {
    return Boolean(this.box.value.trim()) && this.files.settled;
  }

  #submit() {
    if (!this.#sendable || this.#running) return;
    const question = { text: this.box.value.trim(), files: this.files.taken };
    this.text = "";
    this.files.clear();
    this.actions.send(question);
  }

  #changed() {
    if (!this.send) return;
    // An empty box takes the interface's direction, for its placeholder; then the question's own counts.
    this.box.dir = this.box.value ? "auto" : "";
    this.send.disabled = !this.#sendable;
    this.box.style.height = "auto";
    if (this.box.scrollHeight) this.box.style.height = `${this.box.scrollHeight}px`;
  }
}
