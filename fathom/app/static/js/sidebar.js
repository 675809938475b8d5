// The list of chats, beside the conversation on a wide screen and above it on a narrow one: found by date, by folder, by words.

import { menuButton } from "./dialog.js";
import { el, icon, iconButton } from "./dom.js";
import { dayName, t } from "./i18n.js";

const TYPING_PAUSE_MS = 200;
const CLOSED = "fathom.closedFolders";

export class Sidebar {
  #chats = [];
  #current = null;
  #found = null;
  #shown = "";
  #timer = 0;
  #closed = new Set(JSON.parse(localStorage.getItem(CLOSED) ?? "[]"));

  /**
   * `actions`: open(id), rename(chat), pin(chat), move(chat), share(chat), exportAs(chat, format), remove(chat),
   * find(words) -> summaries with their match, close(), settings(), more(): what the foot's menu offers.
   */
  constructor(actions) {
    this.actions = actions;
    this.search = el("input", {
      type: "search",
      class: "field",
      "aria-label": t("searchChats"),
      placeholder: t("searchChats"),
      dir: "auto",
      oninput: () => this.#typed(),
      onkeydown: (event) => this.#searchKey(event),
    });
    this.list = el("div", { class: "chats" });
    const head = el("div", { class: "side-head" }, el("h2", {}, t("chats")), iconButton("close", t("closeChats"), actions.close));
    const settings = el("button", { type: "button", class: "side-button", onclick: actions.settings }, icon("gear"), t("settings"));
    const foot = el("div", { class: "side-foot" }, settings, menuButton("more", t("moreActions"), actions.more));
    this.element = el("nav", { class: "sidebar", id: "chats", "aria-label": t("chats") }, head, el("div", { class: "side-search" }, icon("find"), this.search), this.list, foot);
  }

  /** Shows `chats` ({id, title, updated, pinned, folder, run}, newest first); `current` is the id of the one that is open. */
  show(chats, current) {
    // Asked for every few seconds: what is the same stays, with its focus and its open menu.
    const state = JSON.stringify([chats.map(({ id, title, updated, pinned, folder, run }) => [id, title, dayName(updated * 1000), pinned, folder, run]), current]);
    if (state === this.#shown) return;
    this.#shown = state;
    this.#chats = chats;
    this.#current = current;
    if (this.#found === null) this.#showAll();
  }

  #showAll() {
    const sections = [...groups(this.#chats)].map(([name, { folder, members }]) => this.#section(name, folder, members));
    this.#replace(sections.length ? sections : [el("p", { class: "none" }, t("noChats"))]);
  }

  // A list that is redrawn while someone moves through it keeps the focus where it was.
  #replace(children) {
    const focused = this.list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    this.list.replaceChildren(...children);
    if (focused) this.list.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  #section(name, folder, members) {
    const list = el("ul", {}, ...members.map((chat) => this.#entry(chat)));
    if (!folder) return el("section", {}, el("h3", {}, name), list);
    const open = !this.#closed.has(name);
    list.hidden = !open;
    const toggle = el(
      "button",
      { type: "button", class: "folder", "aria-expanded": String(open), "data-key": `folder ${name}`, onclick: () => this.#fold(name) },
      icon("folder"),
      el("span", { dir: "auto" }, name),
    );
    return el("section", {}, el("h3", {}, toggle), list);
  }

  #fold(name) {
    if (!this.#closed.delete(name)) this.#closed.add(name);
    localStorage.setItem(CLOSED, JSON.stringify([...this.#closed]));
    this.#showAll();
  }

  #entry(chat) {
    const { id, pinned, run } = chat;
    const title = chat.title || t("untitled");
    const current = id === this.#current ? "page" : null;
    const open = el("button", { type: "button", class: "open", "aria-current": current, "data-key": id, onclick: () => this.actions.open(id) }, el("bdi", {}, title));
    const items = () => [
      { icon: "edit", label: t("rename"), action: () => this.actions.rename(chat) },
      { icon: "pin", label: pinned ? t("unpin") : t("pin"), action: () => this.actions.pin(chat) },
      { icon: "folder", label: t("moveToFolder"), action: () => this.actions.move(chat) },
      { icon: "share", label: t("share"), action: () => this.actions.share(chat) },
      { icon: "download", label: t("exportMarkdown"), action: () => this.actions.exportAs(chat, "markdown") },
      { icon: "download", label: t("exportJson"), action: () => this.actions.exportAs(chat, "json") },
      { icon: "bin", label: t("deleteChat"), danger: true, action: () => this.actions.remove(chat) },
    ];
    const state = run ? el("span", { class: "pulse", role: "img", "aria-label": t("answering") }) : null;
    return el("li", { class: "entry" }, open, state, menuButton("more", t("actionsFor", title), items, { "data-key": `menu ${id}` }));
  }

  // ---- words ----

  #typed() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#find(), TYPING_PAUSE_MS);
  }

  async #find() {
    const words = this.search.value.trim();
    if (!words) {
      this.#found = null;
      this.#showAll();
      return;
    }
    const found = await this.actions.find(words);
    if (words !== this.search.value.trim()) return;
    this.#found = found;
    const entries = found.map(({ id, title, match }) =>
      el(
        "li",
        { class: "entry found" },
        el(
          "button",
          { type: "button", class: "open", "data-key": id, onclick: () => this.actions.open(id) },
          el("bdi", { class: "found-title" }, title || t("untitled")),
          match ? el("span", { class: "snippet", dir: "auto" }, ...marked(match)) : null,
        ),
      ),
    );
    this.#replace(entries.length ? [el("ul", {}, ...entries)] : [el("p", { class: "none", role: "status" }, t("nothingFoundFor", words))]);
  }

  #searchKey(event) {
    if (event.key === "ArrowDown") this.list.querySelector("button")?.focus();
    else if (event.key === "Escape" && this.search.value) {
      this.search.value = "";
      this.#find();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

/** Chats under what they stand below: pinned, their folder, or their day; in this order. */
function groups(chats) {
  const sorted = new Map([[t("pinned"), { members: [] }]]);
  const folders = [...new Set(chats.map((chat) => chat.folder).filter(Boolean))].sort((a, b) => a.localeCompare(b));
  for (const name of folders) sorted.set(name, { folder: true, members: [] });
  for (const chat of chats) {
    const name = chat.pinned ? t("pinned") : chat.folder || dayName(chat.updated * 1000);
    if (!sorted.has(name)) sorted.set(name, { members: [] });
    sorted.get(name).members.push(chat);
  }
  for (const [name, { members }] of sorted) if (!members.length) sorted.delete(name);
  return sorted;
}

/** What was found of a chat: its text with the words marked that were looked for. */
function marked({ text, spans }) {
  const parts = [];
  let end = 0;
  for (const [from, to] of spans) {
    parts.push(text.slice(end, from), el("mark", {}, text.slice(from, to)));
    end = to;
  }
  return [...parts, text.slice(end)];
}
