// The app: which chat is open, which answers are on their way, and what each click means.

import { addMessage, closeInterrupted, newChat, show as showBranch } from "./chat.js";
import { Composer } from "./composer.js";
import { el, icon, iconButton } from "./dom.js";
import { apply, t } from "./i18n.js";
import { Run } from "./run.js";
import { Server } from "./server.js";
import { Sidebar } from "./sidebar.js";
import { isRunning } from "./store.js";
import { Transcript } from "./transcript.js";

const OPEN_CHAT = "fathom.chat";
const SIDEBAR = "fathom.sidebar";
const WIDE = matchMedia("(min-width: 900px)");
const LOOPBACK = /^(localhost|127(\.\d+){3}|\[::1\])$/;

export class App {
  #runs = new Map();
  #chats = [];
  #chat = newChat();
  #storageFailed = false;
  #deleted = new Set();

  constructor(root, store) {
    this.root = root;
    this.store = store;
    this.server = new Server();
    this.actions = {
      regenerate: (answer) => this.#answer(answer.parent),
      edit: (question, text) => this.#question(question.parent, text),
      show: (message) => this.#showBranch(message),
    };
  }

  async start() {
    const last = sessionStorage.getItem(OPEN_CHAT);
    this.server.onChange(() => this.#serverChanged());
    this.#build();
    document.addEventListener("keydown", (event) => this.#key(event));
    addEventListener("pagehide", () => this.#leave());
    this.server.watch();
    if (!this.store) return;
    this.store.onChange((id) => this.#changedElsewhere(id));
    this.#chats = await this.store.list();
    if (last) await this.#open(last);
    this.#showChats();
  }

  runOf(chat) {
    return this.#runs.get(chat.id);
  }

  #build() {
    apply();
    const draft = this.composer?.text ?? "";
    this.composer = new Composer({
      onSend: (text) => this.ask(text),
      onStop: () => this.#stop(),
      onMode: () => this.#serverChanged(),
    });
    this.composer.text = draft;
    this.transcript = new Transcript(this);
    this.sidebar = new Sidebar({
      onOpen: (id) => this.#choose(id),
      onDelete: (id) => this.#delete(id),
      onClose: () => this.#toggleSidebar(false),
      onLanguage: () => this.#build(),
    });
    this.state = el("p", { class: "server-state", role: "status" });
    this.menu = iconButton("menu", t("openChats"), () => this.#toggleSidebar(!this.#sidebarOpen), { "aria-controls": "chats" });
    this.fresh = el("button", { type: "button", class: "new-chat", onclick: () => this.#newChat() }, icon("plus"), el("span", {}, t("newChat")));
    const header = el("header", { class: "top" }, this.menu, brand(), el("span", { class: "space" }), badge(), this.fresh);
    this.curtain = el("div", { class: "curtain", onclick: () => this.#toggleSidebar(false) });
    this.main = el("main", {}, header, this.transcript.element, el("div", { class: "dock" }, this.state, this.composer.element));
    this.root.replaceChildren(this.sidebar.element, this.curtain, this.main);
    this.#toggleSidebar(WIDE.matches && localStorage.getItem(SIDEBAR) === "open", false);
    this.#showChats();
    this.#show();
    this.#serverChanged();
    this.#focusBox();
  }

  // Not on a touch screen, where the focus would bring up the keyboard over the page.
  #focusBox() {
    if (matchMedia("(hover: hover)").matches) this.composer.box.focus();
  }

  get #sidebarOpen() {
    return this.root.classList.contains("with-sidebar");
  }

  #toggleSidebar(open, remember = true) {
    this.root.classList.toggle("with-sidebar", open);
    this.sidebar.element.inert = !open;
    // On a narrow screen the list lies over the conversation, which then must not take the focus.
    this.main.inert = open && !WIDE.matches;
    this.menu.setAttribute("aria-expanded", String(open));
    if (!remember) return;
    if (WIDE.matches) localStorage.setItem(SIDEBAR, open ? "open" : "closed");
    (open ? this.sidebar.element.querySelector("button") : this.menu).focus();
  }

  #serverChanged() {
    const texts = { loading: t("loading"), unreachable: t("unreachable"), down: this.server.reason || t("errors").server };
    // A mode that does nothing must not look as if it did.
    const idle = this.server.thinks === false && this.composer.thinks;
    this.state.textContent = texts[this.server.state] ?? (idle ? t("noThinking", this.server.model) : "");
    this.runOf(this.#chat)?.view?.state();
  }

  #show() {
    this.transcript.show(this.#chat);
    this.composer.running = this.#runs.has(this.#chat.id);
    sessionStorage.setItem(OPEN_CHAT, this.#chat.id);
    document.title = this.#chat.title ? `${this.#chat.title} · Fathom` : "Fathom";
  }

  #showChats() {
    this.sidebar.show(this.#chats, this.#chat.id);
  }

  // ---- asking ----

  ask(text) {
    if (this.#runs.has(this.#chat.id)) return;
    this.#question(this.#chat.leaf, text);
  }

  #question(parent, text) {
    if (this.#runs.has(this.#chat.id)) return;
    const question = addMessage(this.#chat, parent, { role: "user", content: text });
    this.#answer(question.id);
  }

  #answer(parent) {
    const chat = this.#chat;
    if (this.#runs.has(chat.id)) return;
    const answer = addMessage(chat, parent, { role: "assistant", content: "", status: "waiting", deepThink: this.composer.thinks });
    const run = new Run(this, chat, answer);
    this.#runs.set(chat.id, run);
    run.start().finally(() => this.#ended(chat));
    this.#show();
  }

  #ended(chat) {
    this.#runs.delete(chat.id);
    if (chat.id === this.#chat.id) this.composer.running = false;
    if (this.server.state !== "ready") this.server.watch();
  }

  #stop() {
    this.runOf(this.#chat)?.stop();
  }

  #showBranch(message) {
    if (this.#runs.has(this.#chat.id)) return;
    showBranch(this.#chat, message);
    this.save(this.#chat);
    this.#show();
  }

  // ---- chats ----

  #newChat() {
    this.#chat = newChat();
    this.#show();
    this.#showChats();
    this.#focusBox();
  }

  async #choose(id) {
    await this.#open(id);
    this.#showChats();
    if (!WIDE.matches) this.#toggleSidebar(false);
  }

  async #open(id) {
    const chat = this.#runs.get(id)?.chat ?? (await this.store.get(id));
    if (!chat) return;
    if (!this.#runs.has(id) && !(await isRunning(id)) && closeInterrupted(chat)) await this.save(chat);
    this.#chat = chat;
    this.#show();
  }

  async #delete(id) {
    // Its answer, if one is on its way, must not bring the chat back.
    this.#deleted.add(id);
    this.#runs.get(id)?.stop();
    this.#chats = this.#chats.filter((chat) => chat.id !== id);
    await this.store.delete(id);
    if (id === this.#chat.id) this.#newChat();
    else this.#showChats();
  }

  /** Stores a chat as it is now; the page goes on when the browser refuses, and says so once. */
  async save(chat) {
    if (this.#deleted.has(chat.id)) return;
    const listed = { id: chat.id, title: chat.title, updated: chat.updated };
    const before = this.#chats[0];
    this.#chats = [listed, ...this.#chats.filter((other) => other.id !== chat.id)];
    if (before?.id !== chat.id) this.#showChats();
    if (!this.store) return;
    try {
      await this.store.put(chat);
    } catch (error) {
      if (!this.#storageFailed) this.state.textContent = t("errors").storage;
      this.#storageFailed = true;
      console.error(error);
    }
  }

  #leave() {
    for (const { chat } of this.#runs.values()) this.store?.journal(chat);
  }

  async #changedElsewhere(id) {
    this.#chats = await this.store.list();
    this.#showChats();
    if (id !== this.#chat.id || this.#runs.has(id)) return;
    const chat = await this.store.get(id);
    if (!chat) return;
    this.#chat = chat;
    this.#show();
  }

  #key(event) {
    if (event.key !== "Escape" || event.isComposing) return;
    if (this.main.inert) this.#toggleSidebar(false);
    else this.#stop();
  }
}

function brand() {
  return el("h1", { class: "brand" }, el("img", { src: "/static/logo.svg", alt: "", width: 26, height: 26 }), "Fathom");
}

function badge() {
  const here = LOOPBACK.test(location.hostname);
  const [text, hint] = here ? [t("here"), t("hereHint")] : [t("there", location.host), t("thereHint", location.host)];
  return el("span", { class: "badge", title: hint }, icon("shield"), el("span", {}, text));
}
