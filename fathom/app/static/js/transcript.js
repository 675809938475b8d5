// The messages of the chat that is shown, and where one reads in it: it follows a growing answer only from its end.

import { path, siblings } from "./chat.js";
import { el, icon } from "./dom.js";
import { t } from "./i18n.js";
import { AnswerView, questionView } from "./message.js";

const NEAR_END = 48;
// From so many messages on, those out of sight are not drawn.
const MANY = 30;

export class Transcript {
  #follows = true;
  #views = new Map();

  /** `app` gives {server, session, actions, askStarter(text)}. */
  constructor(app) {
    this.app = app;
    this.log = el("div", { class: "log", role: "log", "aria-label": t("conversation") });
    this.welcome = el("div", { class: "welcome" });
    this.column = el("div", { class: "column" }, this.welcome, this.log);
    this.scroller = el("div", { class: "scroller", tabindex: "-1", onscroll: () => this.#scrolled() }, this.column);
    this.latest = el("button", { type: "button", class: "latest", hidden: true, "aria-label": t("latest"), title: t("latest"), onclick: () => this.toEnd() }, icon("down"));
    this.element = el("div", { class: "transcript" }, this.scroller, this.latest);
    // What is drawn late (formulas, blocks that come into sight) also changes where the end is.
    new ResizeObserver(() => this.#rendered()).observe(this.column);
  }

  /** Shows the visible path of `chat`, in one step. Answers that stay keep their place, their selection and what is open. */
  show(chat, { follow = true } = {}) {
    const messages = path(chat);
    const actions = { ...this.app.actions, rendered: () => this.#rendered() };
    const before = this.#views;
    this.#views = new Map();
    for (const message of messages) this.#views.set(message, this.#viewFor(chat, message, actions, before.get(message)));
    arrange(this.log, [...this.#views.values()].map(({ view }) => view.element));
    this.log.classList.toggle("many", messages.length > MANY);
    this.welcome.hidden = messages.length > 0;
    if (!messages.length) this.#greet(chat);
    if (follow) this.toEnd();
  }

  /** The view of an answer, when it is shown. */
  viewOf(answer) {
    return this.#views.get(answer)?.view;
  }

  /** Shows a question anew: something about it has become known. */
  renew(chat, question) {
    this.#views.delete(question);
    this.show(chat, { follow: this.#follows });
  }

  // `place`: which of how many versions it is, in which state. What is the same as before is left as it is.
  #viewFor(chat, message, actions, old) {
    const all = siblings(chat, message);
    const place = `${all.indexOf(message)}/${all.length} ${message.state}`;
    if (message.role === "user") {
      return old?.place === place ? old : { view: { element: questionView(chat, message, actions) }, place };
    }
    const view = old?.view ?? new AnswerView(this.app, chat, message, actions);
    view.chat = chat;
    if (old && old.place !== place) view.state();
    return { view, place };
  }

  #greet(chat) {
    const starters = t("starters").map(([title, question]) =>
      el("button", { type: "button", class: "starter", onclick: () => this.app.askStarter(question) }, el("strong", {}, title), el("span", {}, question)),
    );
    const hint = chat.temporary ? el("p", { class: "hint temporary" }, t("temporaryHint")) : null;
    this.welcome.replaceChildren(...[el("h2", {}, chat.temporary ? t("temporaryChat") : t("greeting")), hint, el("div", { class: "starters" }, ...starters)].filter(Boolean));
  }

  toEnd() {
    this.#follows = true;
    this.#rendered();
  }

  #distance() {
    return this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight;
  }

  #scrolled() {
    this.#follows = this.#distance() < NEAR_END;
    this.latest.hidden = this.#follows;
  }

  #rendered() {
    if (this.#follows) this.scroller.scrollTop = this.scroller.scrollHeight;
    this.latest.hidden = this.#follows;
  }
}

// Makes `parent` hold exactly `children`; what stands right already is not touched.
function arrange(parent, children) {
  const wanted = new Set(children);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  children.forEach((child, index) => {
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
}
