// The messages of the chat that is shown, and where one reads in it: it follows a growing answer only from its end.

import { path } from "./chat.js";
import { el, icon } from "./dom.js";
import { t } from "./i18n.js";
import { AnswerView, questionView } from "./message.js";

const NEAR_END = 48;

export class Transcript {
  #follows = true;

  /** `app` gives {server, runOf(chat), regenerate(answer), edit(question, text), show(message), ask(text)}. */
  constructor(app) {
    this.app = app;
    this.log = el("div", { class: "log", role: "log", "aria-label": t("conversation") });
    this.welcome = el("div", { class: "welcome" });
    this.column = el("div", { class: "column" }, this.welcome, this.log);
    this.scroller = el("div", { class: "scroller", tabindex: "-1", onscroll: () => this.#scrolled() }, this.column);
    this.latest = el("button", { type: "button", class: "latest", hidden: true, "aria-label": t("latest"), title: t("latest"), onclick: () => this.toEnd() }, icon("down"));
    this.element = el("div", { class: "transcript" }, this.scroller, this.latest);
  }

  /** Shows the visible path of `chat`, in one step: nothing is seen of the change but the new state. */
  show(chat) {
    const run = this.app.runOf(chat);
    if (run) run.view = null;
    const messages = path(chat);
    const actions = { ...this.app.actions, rendered: () => this.#rendered() };
    this.log.replaceChildren(
      ...messages.map((message) =>
        message.role === "user"
          ? questionView(chat, message, actions)
          : new AnswerView(this.app, chat, message, run?.answer === message ? run : null, actions).element,
      ),
    );
    this.welcome.hidden = messages.length > 0;
    if (!messages.length) this.#greet();
    this.toEnd();
  }

  #greet() {
    const starters = t("starters").map(([title, question]) =>
      el("button", { type: "button", class: "starter", onclick: () => this.app.ask(question) }, el("strong", {}, title), el("span", {}, question)),
    );
    this.welcome.replaceChildren(el("h2", {}, t("greeting")), el("div", { class: "starters" }, ...starters));
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
