// How one message looks: the question with its files, or the answer with its search, its thought, its state and what can be
// done with it.

import { rememberKey } from "./api.js";
import { fileChips } from "./attachments.js";
import { isRunning, siblings } from "./chat.js";
import { menuButton, toast } from "./dialog.js";
import { copyText, el, icon, iconButton } from "./dom.js";
import { answerFacts } from "./facts.js";
import { copyButton, GrowingText } from "./growing.js";
import { formatNumber, t } from "./i18n.js";
import { linkCitations, plainCitations, searchLine, searchResult, sentenceBefore, sourceChips } from "./sources.js";

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
  const copy = copyButton(t("copyQuestion"), () => message.content);
  const buttons = actions.readOnly ? [copy] : [copy, iconButton("edit", t("edit"), () => edit())];
  const bar = el("div", { class: "actions" }, ...buttons, versions(chat, message, actions));
  const files = fileChips(message.files);
  const article = el("article", { class: "message user", "aria-label": t("user") }, ...[files, words, bar].filter(Boolean));
  const edit = () => article.replaceChildren(editor(message.content, (text) => actions.edit(message, text), () => restore()));
  const restore = () => {
    article.replaceChildren(...[files, words, bar].filter(Boolean));
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

/** The article of an answer, whole or on its way; then it is told what changes: `thought`, `text`, `searched`, `state`. */
export class AnswerView {
  #text;
  // The number that each cited source is shown with: in the order of the text.
  #numbers = new Map();
  #thoughtText = null;
  #thoughtPending = "";
  #timer = 0;

  constructor(app, chat, answer, actions) {
    Object.assign(this, { app, chat, answer, actions });
    this.#text = new GrowingText(() => actions.rendered(), (root) => this.#linkCitations(root));
    this.element = el("article", { class: "message assistant", "aria-label": t("assistant"), onclick: (event) => this.#clicked(event) });
    this.summary = el("summary", {});
    this.thoughtBox = el("details", { class: "thought", ontoggle: () => this.#flushThought() }, this.summary);
    this.answerNow = el("button", { type: "button", class: "answer-now", onclick: () => this.#answerNow() }, icon("skip"), t("answerNow"));
    this.thoughtRow = el("div", { class: "thought-row", hidden: true }, this.thoughtBox, this.answerNow);
    this.searchRow = el("div", { class: "search-row", hidden: true });
    this.chips = el("div", { class: "chips-row" });
    this.foot = el("div", { class: "foot" });
    const steps = el("div", { class: "steps" }, this.searchRow, this.thoughtRow);
    this.element.append(steps, this.#text.element, this.chips, this.foot);
    if (answer.thought) this.thought(answer.thought);
    if (answer.content) this.#text.append(answer.content);
    this.state();
  }

  /** Takes over the name and the data that the server gave a message that was shown before it knew of it. */
  get id() {
    return this.answer.id;
  }

  get #running() {
    return isRunning(this.answer);
  }

  get #thinking() {
    const { thought, content, thoughtEnded } = this.answer;
    return this.#running && Boolean(thought) && !content && !thoughtEnded;
  }

  // ---- thought ----

  thought(text) {
    this.#thoughtPending += text;
    this.thoughtRow.hidden = false;
    this.#flushThought();
    if (this.#thinking && !this.#timer) {
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

  #nameThought() {
    const thinking = this.#thinking;
    const { thought_seconds: took, thoughtSince } = this.answer;
    const elapsed = thoughtSince ? (Date.now() - thoughtSince) / 1000 : 0;
    const seconds = Math.max(0, Math.round(thinking ? elapsed : (took ?? 0)));
    const name = thinking ? t("thinking", seconds && formatNumber(seconds)) : t("thought", formatNumber(Math.max(1, seconds)));
    if (this.summary.textContent !== name) this.summary.textContent = name;
    this.thoughtBox.classList.toggle("thinking", thinking);
    this.answerNow.hidden = !thinking;
    if (!thinking) {
      clearInterval(this.#timer);
      this.#timer = 0;
    }
  }

  #answerNow() {
    this.answerNow.disabled = true;
    this.actions.answerNow(this.answer);
  }

  // ---- text and sources ----

  text(text) {
    this.#text.append(text);
    this.#showSearch();
  }

  /** The answer as a whole has become known: what is shown grows into it, or is shown anew where it differs. */
  whole() {
    const { content, thought } = this.answer;
    if (content.startsWith(this.#text.source)) this.#text.append(content.slice(this.#text.source.length));
    else this.#text.restart(content);
    const known = (this.#thoughtText?.source ?? "") + this.#thoughtPending;
    if (thought && thought !== known) {
      this.#thoughtText?.restart("");
      this.#thoughtPending = "";
      this.thought(thought);
    }
    this.state();
  }

  /** The search has gone on, or what it found has become known. */
  searched() {
    this.#showSearch();
    this.#numbers.clear();
    this.#text.again();
    this.actions.rendered();
  }

  // While it goes on: what it does. Afterwards: what it found, as a button that opens the panel.
  #showSearch() {
    const { search, progress, sources, content } = this.answer;
    const going = this.#running && !sources && !content;
    this.searchRow.hidden = !search || (going && progress?.stage !== "search");
    if (this.searchRow.hidden) return;
    const line = [icon("globe"), el("span", {}, going ? searchLine(progress) : searchResult(this.answer))];
    const has = !going && (sources?.length || this.answer.notes?.length);
    const row = has
      ? el("button", { type: "button", class: "search-line as-button", onclick: () => this.#openSource(null, "") }, ...line)
      : el("p", { class: going ? "search-line going" : "search-line" }, ...line);
    this.searchRow.replaceChildren(row);
  }

  #linkCitations(root) {
    const { sources, citations } = this.answer;
    if (sources?.length) linkCitations(root, { sources, numbers: this.#numbers, supported: this.#running ? null : citations });
  }

  #showChips() {
    const chips = sourceChips(this.answer.sources ?? [], this.#numbers, (source) => this.#openSource(source, ""));
    this.chips.replaceChildren(...[chips].filter(Boolean));
  }

  #openSource(source, sentence) {
    this.actions.openSources(this.answer, source, sentence, this.#numbers);
  }

  // A citation opens the passage; with a modifier key or the middle button it opens the page, as links do.
  #clicked(event) {
    const link = event.target.closest("a.cite");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    this.#openSource(this.answer.sources[Number(link.dataset.source) - 1], sentenceBefore(link));
  }

  // ---- state ----

  /** Shows the state that the answer is in now. */
  state() {
    this.element.setAttribute("aria-busy", String(this.#running));
    this.element.classList.toggle("running", this.#running && Boolean(this.answer.content));
    this.#nameThought();
    this.#showSearch();
    if (!this.#running) {
      this.#text.finish();
      this.#thoughtText?.finish();
      this.#numbers.clear();
      this.#text.again();
      this.#showChips();
    }
    this.foot.replaceChildren(...this.#footParts().filter(Boolean));
    this.actions.rendered();
  }

  #footParts() {
    const { state, error, finish, content, thought, progress, notes } = this.answer;
    if (this.#running) return thought || content || progress?.stage === "search" ? [] : [waitingView(this.#waitingText())];
    const parts = [];
    if (state === "stopped") parts.push(this.#note(t("stopped")));
    if (state === "interrupted") parts.push(this.#note(t("interrupted")));
    if (state === "complete" && finish === "length") parts.push(this.#note(t("length")));
    if (notes?.some(({ kind }) => kind === "turns_left_out")) parts.push(el("p", { class: "note" }, t("turnsLeftOut")));
    if (state === "failed") parts.push(errorView(error ?? {}, () => this.actions.retry(this.answer), content && !this.actions.readOnly ? this.#goOnButton() : null));
    else if (!content && state === "complete") parts.push(errorView({ code: "empty" }, () => this.actions.retry(this.answer)));
    return [...parts, ...this.#actionBar()];
  }

  #waitingText() {
    const { stage, place, text } = this.answer.progress ?? {};
    if (stage === "loading") return t("loadingQueued");
    if (stage === "queue" && place > 0) return t("queued", place, formatNumber(place));
    if (stage === "files") return text || t("readingFiles");
    return t("waiting");
  }

  // What was cut short can go on from where it ended.
  #note(words) {
    return el("p", { class: "note with-button" }, el("span", {}, words), this.answer.content && !this.actions.readOnly ? this.#goOnButton() : null);
  }

  #goOnButton() {
    return el("button", { type: "button", class: "quiet small", onclick: () => this.actions.goOn(this.answer) }, icon("play"), t("continue"));
  }

  #actionBar() {
    const facts = el("div", { class: "facts", hidden: true });
    const info = iconButton("info", t("details"), () => this.#toggleFacts(info, facts), { "aria-expanded": "false" });
    const content = plainCitations(this.answer.content, this.#numbers);
    const copies = () => [
      { icon: "copy", label: t("copyMarkdown"), action: () => copied(content) },
      { icon: "copy", label: t("copyText"), action: () => copied(this.#text.element.innerText) },
    ];
    const bar = el(
      "div",
      { class: "actions" },
      content ? copyButton(t("copyAnswer"), () => content) : null,
      this.actions.readOnly ? null : iconButton("again", t("regenerate"), () => this.actions.regenerate(this.answer)),
      ...(content && !this.actions.readOnly ? this.#rating() : []),
      this.answer.usage || this.answer.model ? info : null,
      content ? menuButton("more", t("moreCopies"), copies) : null,
      versions(this.chat, this.answer, this.actions),
    );
    return [bar, facts];
  }

  #rating() {
    const button = (name, label, value) => {
      const pressed = this.answer.rating === value;
      return iconButton(name, label, () => this.actions.rate(this.answer, pressed ? null : value), { "aria-pressed": String(pressed) });
    };
    return [button("like", t("like"), 1), button("dislike", t("dislike"), -1)];
  }

  #toggleFacts(info, facts) {
    facts.hidden = !facts.hidden;
    info.setAttribute("aria-expanded", String(!facts.hidden));
    if (!facts.hidden) facts.replaceChildren(...answerFacts(this.answer, this.app.session));
    this.actions.rendered();
  }
}

async function copied(text) {
  await copyText(text);
  toast(t("copied"));
}

function waitingView(text) {
  return el("p", { class: "waiting" }, el("span", { class: "pulse", "aria-hidden": "true" }), text);
}

// What went wrong, by the code that the server or the page gave it.
const ERRORS = { key_required: "key", quota: "quota", throttled: "busy", busy: "busy", network: "network", empty: "empty", queue_full: "busy", context: "long" };

function errorView({ code, message }, retry, goOn = null) {
  const words = el("p", { dir: "auto" }, t("errors")[ERRORS[code] ?? "server"]);
  if (message) words.append(" ", t("errors").says(message));
  const alert = el("div", { class: "error", role: "alert" }, words);
  if (code === "key_required") alert.append(keyForm(retry));
  else alert.append(el("div", { class: "error-buttons" }, el("button", { type: "button", class: "quiet small", onclick: retry }, icon("again"), t("retry")), goOn));
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
