// The list of chats, beside the conversation on a wide screen and above it on a narrow one.

import { el, iconButton } from "./dom.js";
import { choose, LANGUAGES, language, t } from "./i18n.js";

const DAY = 24 * 60 * 60 * 1000;

function groupOf(updated, now) {
  const midnight = new Date(now).setHours(0, 0, 0, 0);
  if (updated >= midnight) return "today";
  if (updated >= midnight - DAY) return "yesterday";
  return updated >= midnight - 7 * DAY ? "week" : "older";
}

export class Sidebar {
  /** `onOpen(id)`, `onDelete(id)`, `onClose()`, `onLanguage()`. */
  constructor(handlers) {
    this.handlers = handlers;
    this.list = el("div", { class: "chats" });
    const head = el("div", { class: "side-head" }, el("h2", {}, t("chats")), iconButton("close", t("closeChats"), handlers.onClose));
    this.element = el("nav", { class: "sidebar", id: "chats", "aria-label": t("chats") }, head, this.list, this.#languages());
  }

  #languages() {
    const select = el(
      "select",
      {
        id: "language",
        onchange: () => {
          choose(select.value);
          this.handlers.onLanguage();
        },
      },
      ...Object.entries(LANGUAGES).map(([tag, { name }]) => el("option", { value: tag, lang: tag, selected: tag === language }, name)),
    );
    return el("div", { class: "side-foot" }, el("label", { for: "language" }, t("language")), select);
  }

  /** Shows `chats` ({id, title, updated}, newest first); `current` is the id of the one that is open. */
  show(chats, current) {
    const now = Date.now();
    const groups = grouped(chats, now);
    const sections = [...groups].map(([group, members]) =>
      el("section", {}, el("h3", {}, t(group)), el("ul", {}, ...members.map((chat) => this.#entry(chat, current)))),
    );
    this.list.replaceChildren(...(sections.length ? sections : [el("p", { class: "none" }, t("noChats"))]));
  }

  #entry({ id, title }, current) {
    return el(
      "li",
      { class: "entry" },
      el("button", { type: "button", class: "open", dir: "auto", "aria-current": id === current ? "page" : null, onclick: () => this.handlers.onOpen(id) }, title),
      iconButton("bin", t("deleteChat", title), () => this.handlers.onDelete(id)),
    );
  }
}

function grouped(chats, now) {
  const groups = new Map();
  for (const chat of chats) {
    const group = groupOf(chat.updated, now);
    groups.set(group, [...(groups.get(group) ?? []), chat]);
  }
  return groups;
}
