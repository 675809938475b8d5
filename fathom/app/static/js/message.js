// How one message looks: the question, or the answer with its thought, its state and what can be done with it.

import { rememberKey } from "./api.js";
import { siblings } from "./chat.js";
import { el, icon, iconButton } from "./dom.js";
import { copyButton, GrowingText } from "./growing.js";
import { formatNumber, t } from "./i18n.js";

/** Arrows between the versions of a message, or null when there is only one. */
function versions(chat, message, actions) {
  const all = siblings(chat, message);
  if (all.length < 2) return null;
  const index = all.indexOf(message);
  const go = (step) => () => actions.show(all[index + step]);
  return el(
    "span",
    { class: "versions" },
    iconButton("back", t("previous"), go(-1), { disabled: index === 0 }),
    el("span", {}, t("version", formatNumber(index + 1), formatNumber(all.length))),
    iconButton("next", t("next"), go(1), { disabled: index === all.length - 1 }),
  );
}

/** The article of a question; it can be edited, which asks anew beside it. */
export function questionView(chat, message, actions) {
  const words = el("div", { class: "bubble", dir: "auto" }, message.content);
  const bar = el("div", { class: "actions" }, iconButton("edit", t("edit"), () => edit()), versions(chat, message, actions));
  const article = el("article", { class: "message user", "aria-label": t("user") }, words, bar);
  const edit = () => article.replaceChildren(editor(message.content, actions.edit.bind(null, message), () => restore()));
  const restore = () => {
    article.replaceChildren(words, bar);
    bar.querySelector("button").focus();
  };
  return article;
}

function editor(text, save, cancel) {
  const box = el("textarea", { class: "edit-box", "aria-label": t("editBox"), dir: "auto", rows: Math.min(8, text.split("\n").length + 1) });
  box.value = text;
  const done = () => box.value.trim() && save(box.value.trim());
  const form = el(
    "div",
    { class: "editor" },
    box,
    el(
      "div",
      { class: "editor-buttons" },
      el("button", { type: "button", class: "quiet", onclick: cancel }, t("cancel")),
      el("button", { type: "button", class: "primary", onclick: done }, t("save")),
    ),
  );
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") cancel();
    else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) done();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  queueMicrotask(() => box.focus());
  return form;
}

/** The article of an answer, whole or on its way (`run`: then it follows). */
export class AnswerView {
  #text;
  #thoughtText = null;
  #thoughtPending = "";
  #timer = 0;

  constructor(app, chat, answer, run, actions) {
    Object.assign(this, { app, chat, answer, run, actions });
    this.#text = new GrowingText(() => actions.rendered());
    this.element = el("article", { class: "message assistant", "aria-label": t("assistant") });
    this.summary = el("summary", {});
    this.thoughtBox = el("details", { class: "thought", ontoggle: () => this.#flushThought() }, this.summary);
    this.foot = el("div", { class: "foot" });
    this.element.append(this.#text.element, this.foot);
    if (answer.thought) this.thought(answer.thought);
    if (answer.content) this.#text.append(answer.content);
    if (run) run.view = this;
    this.state();
  }

  get #running() {
    return this.answer.status === "waiting" || this.answer.status === "streaming";
  }

  thought(text) {
    this.#thoughtPending += text;
    if (!this.thoughtBox.isConnected) this.element.prepend(this.thoughtBox);
    this.#flushThought();
    if (this.answer.thoughtMs == null && !this.#timer && this.#running) {
      this.#timer = setInterval(() => this.#nameThought(), 1000);
      this.state();
    }
  }

  // A folded thought is not rendered: it may be far longer than the answer.
  #flushThought() {
    if (!this.thoughtBox.open || !this.#thoughtPending) return;
    if (!this.#thoughtText) {
      this.#thoughtText = new GrowingText(() => this.actions.rendered());
      this.thoughtBox.append(this.#thoughtText.element);
    }
    this.#thoughtText.append(this.#thoughtPending);
    this.#thoughtPending = "";
    if (!this.#running) this.#thoughtText.finish();
  }

  text(text) {
    this.#text.append(text);
  }

  #nameThought() {
    const { thoughtMs } = this.answer;
    const thinking = thoughtMs == null && this.#running;
    const seconds = Math.round((thinking ? (this.run?.thinkingMs ?? 0) : (thoughtMs ?? 0)) / 1000);
    this.summary.textContent = thinking
      ? t("thinking", seconds && formatNumber(seconds))
      : t("thought", formatNumber(Math.max(1, seconds)));
    this.thoughtBox.classList.toggle("thinking", thinking);
    if (!thinking) {
      clearInterval(this.#timer);
      this.#timer = 0;
    }
  }

  /** Shows the state that the answer is in now. */
  state() {
    const { status } = this.answer;
    this.element.setAttribute("aria-busy", String(this.#running));
    this.element.classList.toggle("running", status === "streaming" && Boolean(this.answer.content));
    this.#nameThought();
    if (!this.#running) {
      this.#text.finish();
      this.#thoughtText?.finish();
    }
    this.foot.replaceChildren(...this.#footParts().filter(Boolean));
    this.actions.rendered();
  }

  #footParts() {
    const { status, error, finish } = this.answer;
    if (status === "waiting") return [waitingView(this.app.server.state === "loading" ? t("loadingQueued") : t("waiting"))];
    if (status === "streaming") return [];
    const parts = [];
    if (status === "stopped") parts.push(el("p", { class: "note" }, t("stopped")));
    if (finish === "length") parts.push(el("p", { class: "note" }, t("length")));
    if (status === "error") parts.push(errorView(error, () => this.actions.regenerate(this.answer)));
    parts.push(...this.#actionBar());
    return parts;
  }

  #actionBar() {
    const facts = el("p", { class: "facts", hidden: true }, ...factsOf(this.answer));
    const info = iconButton("info", t("details"), () => {
      facts.hidden = !facts.hidden;
      info.setAttribute("aria-expanded", String(!facts.hidden));
      this.actions.rendered();
    }, { "aria-expanded": "false" });
    const bar = el(
      "div",
      { class: "actions" },
      this.answer.content ? copyButton(t("copyAnswer"), () => this.answer.content) : null,
      iconButton("again", t("regenerate"), () => this.actions.regenerate(this.answer)),
      this.answer.totalMs ? info : null,
      versions(this.chat, this.answer, this.actions),
    );
    return [bar, facts];
  }
}

function waitingView(text) {
  return el("p", { class: "waiting" }, el("span", { class: "pulse", "aria-hidden": "true" }), text);
}

function errorView({ kind, text }, retry) {
  const words = el("p", { dir: "auto" }, t("errors")[kind]);
  if (text) words.append(" ", t("errors").says(text));
  const alert = el("div", { class: "error", role: "alert" }, words);
  if (kind === "key") alert.append(keyForm(retry));
  else alert.append(el("button", { type: "button", class: "quiet", onclick: retry }, icon("again"), t("retry")));
  return alert;
}

function keyForm(retry) {
  const input = el("input", { type: "password", "aria-label": t("apiKey"), placeholder: t("apiKey"), autocomplete: "off" });
  const use = () => {
    if (!input.value.trim()) return;
    rememberKey(input.value.trim());
    retry();
  };
  input.addEventListener("keydown", (event) => event.key === "Enter" && use());
  return el("div", { class: "key-form" }, input, el("button", { type: "button", class: "primary", onclick: use }, t("useKey")));
}

/** Tokens, times and speed of an answer, each a small piece of text. */
function factsOf({ usage, firstMs, totalMs, model }) {
  const texts = [model];
  if (usage) {
    const { completion_tokens: written, prompt_tokens: read, prompt_cache_hit_tokens: cached } = usage;
    const thought = usage.completion_tokens_details?.reasoning_tokens;
    texts.push(t("answerTokens", written, formatNumber(written)));
    if (thought) texts.push(t("thoughtTokens", formatNumber(thought)));
    texts.push(t("promptTokens", read, formatNumber(read)));
    if (cached) texts.push(t("cachedTokens", formatNumber(cached)));
    // The first token's time belongs to reading the prompt, so the speed of writing leaves both out.
    if (written > 1 && totalMs > firstMs) texts.push(t("rate", formatNumber((written - 1) / ((totalMs - firstMs) / 1000), 1)));
  }
  if (totalMs) texts.push(t("seconds", formatNumber(totalMs / 1000, 1)));
  if (firstMs) texts.push(t("firstAfter", formatNumber(firstMs / 1000, 2)));
  return texts.filter(Boolean).map((text) => el("span", { dir: "auto" }, text));
}
