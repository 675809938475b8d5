// The app: who is here, which chat is open, which answer is on its way, and what each click means.

import * as api from "./api.js";
import { ApiError } from "./api.js";
import { addLocal, dropLocal, leafOf, newChat, path, runningAnswer, settleLocal } from "./chat.js";
import { Composer } from "./composer.js";
import { confirmDialog, promptDialog, toast } from "./dialog.js";
import { copyText, el, icon, iconButton, saveFile } from "./dom.js";
import { apply, t } from "./i18n.js";
import { shortcutOf } from "./keys.js";
import { Live } from "./live.js";
import { Server } from "./server.js";
import { Sidebar } from "./sidebar.js";
import { SourcePanel } from "./sources.js";
import { Transcript } from "./transcript.js";
import { Badge } from "./where.js";

const SIDEBAR = "fathom.sidebar";
const WIDE = matchMedia("(min-width: 900px)");
const REFRESH_MS = 10_000;
const PAGE = 200;

export class App {
  session = null;
  #chats = [];
  #chat = newChat();
  #live = null;
  #opening = 0;
  // How often something was asked here: what was read before that is old.
  #asked = 0;
  #tabs = new BroadcastChannel("fathom");

  constructor(root) {
    this.root = root;
    this.server = new Server();
    this.actions = {
      regenerate: (answer) => this.#again(answer),
      retry: (answer) => this.#retry(answer),
      goOn: (answer) => this.#request({ continue: answer.id }, answer),
      edit: (question, text) => this.#askBelow(question.parent, text, question.files ?? []),
      show: (message) => this.#showBranch(message),
      answerNow: (answer) => this.#attempt(() => api.answerNow(answer.run)),
      rate: (answer, rating) => this.#rate(answer, rating),
      openSources: (answer, source, sentence, numbers) => this.panel.open(answer, numbers, source, sentence),
    };
  }

  async start() {
    this.#build();
    document.addEventListener("keydown", (event) => this.#key(event));
    addEventListener("popstate", () => this.#openFromAddress());
    addEventListener("dragover", (event) => this.#dragged(event));
    addEventListener("drop", (event) => this.#dropped(event));
    this.server.onChange(() => this.#serverChanged());
    this.#tabs.onmessage = ({ data }) => this.#changedElsewhere(data);
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.refresh());
    setInterval(() => document.visibilityState === "visible" && this.refresh(), REFRESH_MS);
    this.server.watch();
    await this.begin();
  }

  /** Begins the session: signs in where that is asked for, then shows the chats. */
  async begin() {
    for (;;) {
      try {
        this.session = await api.session();
        break;
      } catch (error) {
        if (!(error instanceof ApiError) || error.status === 401) throw error;
        this.#say(t("unreachable"));
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    }
    if (this.session.login) {
      const { signIn } = await import("./later/sign-in.js");
      await signIn(this.root);
      this.#build();
      return this.begin();
    }
    this.server.thinks = this.session.capabilities.think;
    this.server.model = this.session.model.name;
    this.#sessionChanged();
    await this.refresh();
    await this.#openFromAddress();
    this.#takeOldChats();
  }

  #build() {
    apply();
    const draft = this.composer?.text ?? "";
    this.composer = new Composer({
      send: ({ text, files }) => this.ask(text, files),
      stop: () => this.#stop(),
      mode: () => this.#serverChanged(),
      upload: (file, progress, signal) => api.uploadFile(file, progress, signal, this.#chat.temporary),
      forget: (file) => this.#attempt(() => api.forgetFile(file.id)),
      prompts: () => this.#later("prompts", "openPrompts"),
    });
    this.composer.text = draft;
    this.transcript = new Transcript(this);
    this.panel = new SourcePanel(() => {});
    this.sidebar = new Sidebar({
      open: (id) => this.#choose(id),
      rename: (chat) => this.#rename(chat),
      pin: (chat) => this.#change(chat, { pinned: !chat.pinned }),
      move: (chat) => this.#later("folders", "moveToFolder", chat),
      share: (chat) => this.#later("share", "openShare", chat),
      exportAs: (chat, format) => this.#save(api.exportChat(chat.id, format)),
      remove: (chat) => this.#remove(chat),
      find: async (words) => (await api.listChats({ query: words })).chats,
      close: () => this.#toggleSidebar(false),
      settings: () => this.#later("settings", "openSettings"),
      more: () => this.#moreItems(),
    });
    this.state = el("p", { class: "server-state", role: "status" });
    this.menu = iconButton("menu", t("openChats"), () => this.#toggleSidebar(!this.#sidebarOpen), { "aria-controls": "chats" });
    this.fresh = el("button", { type: "button", class: "new-chat", onclick: () => this.#newChat() }, icon("plus"), el("span", {}, t("newChat")));
    this.badge = new Badge();
    const header = el("header", { class: "top" }, this.menu, brand(), el("span", { class: "space" }), this.badge.element, this.fresh);
    this.curtain = el("div", { class: "curtain", onclick: () => this.#toggleSidebar(false) });
    this.main = el("main", {}, header, this.transcript.element, el("div", { class: "dock" }, this.state, this.composer.element));
    this.root.replaceChildren(this.sidebar.element, this.curtain, this.main, this.panel.element);
    this.#toggleSidebar(WIDE.matches && localStorage.getItem(SIDEBAR) === "open", false);
    this.#showChats();
    this.#show();
    this.#serverChanged();
    this.#focusBox();
  }

  /** The language or the colours were changed: everything is built anew. */
  rebuild() {
    this.#build();
    this.#sessionChanged();
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

  #sessionChanged() {
    const { limits, files, capabilities } = this.session;
    this.composer.limits = { ...limits, extensions: files?.extensions, taken: capabilities.files };
    this.#serverChanged();
  }

  #serverChanged() {
    const texts = { loading: t("loading", this.server.progress), unreachable: t("unreachable"), down: this.server.reason || t("errors").server };
    // A mode that does nothing must not look as if it did.
    const idle = this.server.thinks === false && this.composer.thinks ? t("noThinking", this.server.model) : "";
    const blind = this.session?.capabilities?.search === false && this.composer.searches ? t("noSearch") : "";
    this.#say(texts[this.server.state] ?? (idle || blind));
    this.badge.show(this.session?.data, this.composer.searches);
  }

  #say(text) {
    if (this.state.textContent !== text) this.state.textContent = text;
  }

  #show(options) {
    this.transcript.show(this.#chat, options);
    this.composer.running = Boolean(runningAnswer(this.#chat));
    const title = this.#chat.title;
    document.title = title ? `${title} · Fathom` : "Fathom";
  }

  #showChats() {
    this.sidebar.show(this.#chats, this.#chat.id);
  }

  // Fetched when first used: what most visits do without.
  async #later(module, name, ...values) {
    const { [name]: open } = await import(`./later/${module}.js`);
    await open(this, ...values);
  }

  /** Does what may fail, and says so where it did. Gives undefined then. */
  async #attempt(work) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      toast(error.message || t("errors")[error.status ? "server" : "network"]);
      return undefined;
    }
  }

  // ---- asking ----

  ask(text, files = []) {
    this.#askBelow(this.#chat.head, text, files);
  }

  askStarter(text) {
    this.ask(text);
  }

  async #askBelow(parent, text, files) {
    if (runningAnswer(this.#chat)) return;
    const question = { role: "user", content: text, files, created: Date.now() / 1000 };
    const answer = this.#waiting();
    addLocal(this.#chat, parent, question, answer);
    await this.#send({ content: text, parent, files: files.map(({ id }) => id) }, answer, question, parent);
  }

  async #again(answer) {
    if (runningAnswer(this.#chat)) return;
    const fresh = this.#waiting();
    const head = this.#chat.head;
    addLocal(this.#chat, answer.parent, fresh);
    await this.#send({ question: answer.parent }, fresh, null, head);
  }

  // A question that never reached the server is asked again as it was; others get a new branch.
  async #retry(answer) {
    if (!answer.local) return this.#again(answer);
    const { request, question, head } = answer.sent;
    dropLocal(this.#chat, head);
    const fresh = this.#waiting();
    addLocal(this.#chat, request.question ?? request.parent, ...(question ? [question, fresh] : [fresh]));
    return this.#send(request, fresh, question, head);
  }

  #waiting() {
    return { role: "assistant", content: "", thought: "", created: Date.now() / 1000, state: "running", think: this.composer.thinks, search: this.composer.searches };
  }

  // The request goes first, then the question is shown: at once, before the server has said anything.
  async #send(request, answer, question, head) {
    this.#asked += 1;
    answer.sent = { request, question, head };
    const chat = this.#chat;
    const asking = this.#asking(chat, request, answer);
    this.#show();
    try {
      const { known, ...open } = await asking;
      settleLocal(chat, [...(question ? [[question, known.user]] : []), [answer, known.answer]]);
      if (!chat.id) this.#named(chat, known.chat.id);
      this.#begun(chat, answer, known, open);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      Object.assign(answer, { state: "failed", error: { code: error.status ? error.code : "network", message: error.message } });
      if (chat === this.#chat) this.#show();
    }
  }

  /** Asks for something with an answer that is known already: continue. */
  async #request(request, answer) {
    if (runningAnswer(this.#chat)) return;
    this.#asked += 1;
    const chat = this.#chat;
    const asked = await this.#attempt(() => this.#asking(chat, request, answer));
    if (!asked) return;
    const { known, ...open } = asked;
    Object.assign(answer, known.answer);
    this.#begun(chat, answer, known, open);
  }

  async #asking(chat, request, answer) {
    const controller = new AbortController();
    const fresh = chat.id ? {} : { temporary: Boolean(chat.temporary) };
    const { known, coming } = await api.ask(chat.id, { ...request, ...fresh, think: answer.think, search: answer.search }, controller.signal);
    return { known, coming, controller };
  }

  #named(chat, id) {
    chat.id = id;
    if (chat === this.#chat) history.replaceState(null, "", `#${id}`);
  }

  // `open`: the connection that it was asked over.
  #begun(chat, answer, known, open) {
    if (chat === this.#chat) {
      this.#follow(answer, open);
      this.#show();
    } else open.controller.abort();
    this.#summarise(chat, known.chat);
    this.#tabs.postMessage({ chat: chat.id });
  }

  #summarise(chat, summary) {
    const { head, messages } = chat;
    Object.assign(chat, summary, { head, messages });
    this.#chats = [summary, ...this.#chats.filter(({ id }) => id !== summary.id)];
    this.#showChats();
  }

  #follow(answer, open = null) {
    if (this.#live?.run === answer.run && this.#live.answer === answer) return;
    this.#live?.leave();
    const chat = this.#chat;
    this.#live = new Live(answer, {
      answer: (changed, what, text) => this.#changed(chat, changed, what, text),
      files: (message, files) => this.#filed(chat, message, files),
      title: (title) => this.#titled(chat, title),
      lost: (lost) => this.#say(lost ? t("reconnecting") : ""),
      end: () => this.#ended(chat, answer),
    }, open);
    this.#live.follow();
  }

  #changed(chat, answer, what, text) {
    const view = chat === this.#chat ? this.transcript.viewOf(answer) : null;
    if (what === "thought") view?.thought(text);
    else if (what === "text") view?.text(text);
    else if (what === "search") view?.searched();
    else if (what === "whole") view?.whole();
    else view?.state();
    if (chat === this.#chat && answer.state !== "running") this.composer.running = false;
  }

  #filed(chat, id, files) {
    const question = chat.messages.find((message) => message.id === id);
    if (!question) return;
    question.files = files;
    if (chat === this.#chat) this.transcript.renew(chat, question);
  }

  #titled(chat, title) {
    chat.title = title;
    this.#chats = this.#chats.map((one) => (one.id === chat.id ? { ...one, title } : one));
    this.#showChats();
    if (chat === this.#chat) document.title = `${title} · Fathom`;
  }

  async #ended(chat, answer) {
    this.#live = null;
    this.#tabs.postMessage({ chat: chat.id });
    this.#say("");
    // The run ended without saying how: the server was started anew.
    if (answer.state === "running" && chat === this.#chat) await this.#reload();
    if (chat === this.#chat) this.composer.running = Boolean(runningAnswer(chat));
    await this.refresh(chat);
  }

  #stop() {
    const answer = runningAnswer(this.#chat);
    if (answer?.run) this.#attempt(() => api.stopRun(answer.run));
  }

  #showBranch(message) {
    if (runningAnswer(this.#chat)) return;
    this.#chat.head = leafOf(this.#chat, message);
    this.#show({ follow: false });
    this.#attempt(() => api.changeChat(this.#chat.id, { head: this.#chat.head }));
  }

  async #rate(answer, rating) {
    answer.rating = rating;
    this.transcript.viewOf(answer)?.state();
    await this.#attempt(() => api.changeMessage(this.#chat.id, answer.id, { rating }));
  }

  // ---- chats ----

  /** Asks the server what chats there are, and for the open one if it has changed. `followed`: the chat whose change we saw. */
  async refresh(followed = null) {
    if (!this.session || this.session.login) return;
    const listed = await api.listChats({ limit: PAGE }).catch(() => null);
    if (!listed) return;
    this.#chats = listed.chats;
    this.#showChats();
    const open = this.#chats.find(({ id }) => id === this.#chat.id);
    if (!open || open.version === this.#chat.version) return;
    if (followed === this.#chat) this.#chat.version = open.version;
    else if (!this.#busy) await this.#reload();
  }

  // What is on its way in this page is newer than what the server has told.
  get #busy() {
    return Boolean(this.#live) || Boolean(runningAnswer(this.#chat));
  }

  async #changedElsewhere({ chat }) {
    await this.refresh();
    if (chat === this.#chat.id && !this.#live) await this.#reload();
  }

  // The chat as the server has it. Answers that are the same stay the same objects, so their views stay as they are.
  async #reload() {
    const { id } = this.#chat;
    const asked = this.#asked;
    const fresh = await api.readChat(id).catch(() => null);
    if (!fresh || id !== this.#chat.id || asked !== this.#asked) return;
    const before = new Map(this.#chat.messages.map((message) => [message.id, message]));
    fresh.messages = fresh.messages.map((message) => {
      const old = before.get(message.id);
      return old && old.role === "assistant" ? Object.assign(old, message) : message;
    });
    this.#chat = fresh;
    this.#show({ follow: Boolean(runningAnswer(fresh)) });
    for (const message of path(fresh)) if (message.role === "assistant") this.transcript.viewOf(message)?.whole();
    const running = runningAnswer(fresh);
    if (running?.run) this.#follow(running);
  }

  #newChat(temporary = false) {
    this.#leave(newChat(temporary));
    history.pushState(null, "", location.pathname);
    this.#focusBox();
  }

  #leave(chat) {
    this.#live?.leave();
    this.#live = null;
    this.panel.close();
    this.#chat = chat;
    this.#show();
    this.#showChats();
  }

  async #choose(id) {
    if (!WIDE.matches) this.#toggleSidebar(false);
    if (id === this.#chat.id) return;
    if (await this.#open(id)) history.pushState(null, "", `#${id}`);
  }

  async #openFromAddress() {
    const id = location.hash.slice(1);
    if (id === (this.#chat.id ?? "")) return;
    if (!id) this.#leave(newChat());
    else if (!(await this.#open(id))) history.replaceState(null, "", location.pathname);
  }

  async #open(id) {
    const ticket = (this.#opening += 1);
    const chat = await this.#attempt(() => api.readChat(id));
    if (!chat || ticket !== this.#opening) return false;
    this.#leave(chat);
    const running = runningAnswer(chat);
    if (running?.run) this.#follow(running);
    return true;
  }

  async #change(chat, values) {
    const changed = await this.#attempt(() => api.changeChat(chat.id, values));
    if (!changed) return;
    if (chat.id === this.#chat.id) Object.assign(this.#chat, changed, { messages: this.#chat.messages, head: this.#chat.head });
    await this.refresh();
    this.#tabs.postMessage({ chat: chat.id });
  }

  /** Puts a chat into a folder; null takes it out. */
  move(chat, folder) {
    return this.#change(chat, { folder });
  }

  async #rename(chat) {
    const title = await promptDialog(t("rename"), chat.title);
    if (!title) return;
    await this.#change(chat, { title });
    if (chat.id === this.#chat.id) this.#titled(this.#chat, title);
  }

  async #remove(chat) {
    if (!(await confirmDialog(t("deleteChatTitle"), t("deleteChatText", chat.title || t("untitled")), t("deleteChat")))) return;
    const id = chat.id;
    const gone = await this.#attempt(async () => {
      await api.deleteChat(id);
      return true;
    });
    if (!gone) return;
    if (id === this.#chat.id) this.#newChat();
    await this.refresh();
    this.#tabs.postMessage({ chat: id });
  }

  async #save(file) {
    const made = await this.#attempt(() => file);
    if (made) saveFile(made.name, made.blob);
  }

  #moreItems() {
    const { capabilities, user, login } = this.session ?? { capabilities: {} };
    const account = user?.name && !login;
    return [
      capabilities.temporary ? { icon: "clock", label: t("temporaryChat"), action: () => this.#newChat(true) } : null,
      { icon: "upload", label: t("importChats"), action: () => this.#later("import", "chooseImport") },
      { icon: "download", label: t("exportAll"), action: () => this.#save(api.exportAll("json")) },
      { icon: "keyboard", label: t("shortcuts"), action: () => this.#later("shortcuts", "openShortcuts") },
      account && user.admin ? { icon: "user", label: t("users"), action: () => this.#later("people", "openPeople") } : null,
      account ? { icon: "leave", label: t("signOut"), action: () => this.#signOut() } : null,
    ];
  }

  async #signOut() {
    await this.#attempt(() => api.logout(false));
    location.assign("/");
  }

  // Chats that earlier versions kept in this browser go to the server, once.
  async #takeOldChats() {
    if (localStorage.getItem("fathom.migrated") || !indexedDB.databases) return;
    // Where the server does not take them now, another visit tries again.
    await this.#later("migrate", "migrate").catch((error) => console.warn(error));
  }

  // ---- files and keys ----

  #dragged(event) {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    if (this.drop || !this.session?.capabilities?.files) return;
    this.drop = el("div", { class: "drop" }, t("dropHere"));
    this.root.append(this.drop);
    const gone = (leaving) => {
      if (leaving.relatedTarget) return;
      removeEventListener("dragleave", gone);
      this.#undrop();
    };
    addEventListener("dragleave", gone);
  }

  #undrop() {
    this.drop?.remove();
    this.drop = null;
  }

  #dropped(event) {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    this.#undrop();
    this.composer.files.add(event.dataTransfer.files);
  }

  #key(event) {
    const shortcut = shortcutOf(event);
    const act = {
      stop: () => this.#escape(),
      fresh: () => this.#newChat(),
      chats: () => this.#toggleSidebar(!this.#sidebarOpen),
      find: () => {
        if (!this.#sidebarOpen) this.#toggleSidebar(true);
        this.sidebar.search.focus();
      },
      box: () => this.composer.box.focus(),
      think: () => this.composer.deepThink.click(),
      web: () => this.composer.search.click(),
      copy: () => this.#copyLast(),
      help: () => this.#later("shortcuts", "openShortcuts"),
    }[shortcut];
    if (!act || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    act();
  }

  #escape() {
    if (this.main.inert) this.#toggleSidebar(false);
    else if (this.panel.isOpen) this.panel.close();
    else this.#stop();
  }

  async #copyLast() {
    const last = path(this.#chat).findLast(({ role, content }) => role === "assistant" && content);
    if (!last) return;
    await copyText(last.content);
    toast(t("copied"));
  }

  /** Offers the text of a prompt in the box. */
  fill(text) {
    this.composer.text = text;
    this.composer.box.focus();
  }
}

export function brand() {
  return el("h1", { class: "brand" }, el("img", { src: "/static/logo.svg", alt: "", width: 26, height: 26 }), "Fathom");
}
