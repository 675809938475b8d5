// One answer on its way: waits for the model, asks, takes what arrives, stores it as it comes, ends in one of five states.

import { ApiError, complete, models } from "./api.js";
import { prompt } from "./chat.js";
import { whileRunning } from "./store.js";

const SAVE_EVERY_MS = 500;

export class Run {
  #controller = new AbortController();
  #started = 0;
  #thoughtStarted = 0;
  #saveTimer = 0;

  /**
   * `app` gives {server, save(chat)}; `view`, when set, is told of every change:
   * thought(text), text(text), state().
   */
  constructor(app, chat, answer) {
    this.app = app;
    this.chat = chat;
    this.answer = answer;
    this.view = null;
  }

  stop() {
    this.#controller.abort();
  }

  /** Seconds the model has thought so far. */
  get thinkingMs() {
    return this.#thoughtStarted ? performance.now() - this.#thoughtStarted : 0;
  }

  async start() {
    this.#set("waiting");
    await this.app.save(this.chat);
    await whileRunning(this.chat.id, () => this.#run());
  }

  async #run() {
    try {
      await this.#ask();
      if (this.answer.content) this.#end("done");
      else this.#end("error", { kind: "empty" });
    } catch (error) {
      if (error.name === "AbortError") this.#end("stopped");
      else if (error instanceof ApiError) this.#end("error", describe(error));
      else {
        this.#end("error", { kind: "server", text: String(error.message) });
        throw error;
      }
    }
    await this.app.save(this.chat);
  }

  async #ask() {
    for (;;) {
      await this.#untilLoaded();
      try {
        await this.#stream();
        return;
      } catch (error) {
        // 503 may mean that the model is still loading: then wait for it. A server that is ready but full says so.
        if (!(error instanceof ApiError) || error.status !== 503) throw error;
        await this.app.server.recheck();
        if (this.app.server.state !== "loading") throw error;
      }
    }
  }

  async #untilLoaded() {
    const { server } = this.app;
    if (server.state !== "ready") await server.recheck();
    if (server.state === "unreachable") throw new ApiError("", 0);
    if (server.state === "down") throw new ApiError(server.reason, 503);
    const { signal } = this.#controller;
    signal.throwIfAborted();
    const aborted = new Promise((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    });
    await Promise.race([server.watch(), aborted]);
  }

  async #stream() {
    this.#started = performance.now();
    const body = {
      model: await this.#model(),
      messages: prompt(this.chat, this.answer),
      thinking: { type: this.answer.deepThink ? "enabled" : "disabled" },
    };
    for await (const part of complete(body, this.#controller.signal)) this.#take(part);
  }

  async #model() {
    // The first name of the list is the model itself, the others are its aliases.
    this.answer.model = (await models())[0].id;
    return this.answer.model;
  }

  #take(part) {
    if (this.answer.status === "waiting") {
      this.answer.firstMs = performance.now() - this.#started;
      this.#set("streaming");
    }
    if (part.thought) this.#takeThought(part.thought);
    if (part.text) this.#takeText(part.text);
    if (part.finish) this.answer.finish = part.finish;
    if (part.usage) this.answer.usage = part.usage;
    this.#saveTimer ||= setTimeout(() => {
      this.#saveTimer = 0;
      this.app.save(this.chat);
    }, SAVE_EVERY_MS);
  }

  #takeThought(text) {
    this.#thoughtStarted ||= performance.now();
    this.answer.thought = (this.answer.thought ?? "") + text;
    this.view?.thought(text);
  }

  #takeText(text) {
    this.#closeThought();
    this.answer.content += text;
    this.view?.text(text);
  }

  #closeThought() {
    if (!this.#thoughtStarted || this.answer.thoughtMs != null) return;
    this.answer.thoughtMs = this.thinkingMs;
    this.view?.state();
  }

  #end(status, error = null) {
    clearTimeout(this.#saveTimer);
    this.#closeThought();
    if (this.#started) this.answer.totalMs = performance.now() - this.#started;
    this.answer.error = error;
    this.#set(status);
  }

  #set(status) {
    this.answer.status = status;
    this.chat.updated = Date.now();
    this.view?.state();
  }
}

/** What is kept of an error: its kind, of which the interface knows the words, and what the server said. */
function describe({ status, message }) {
  const kinds = { 0: "network", 401: "key", 429: "busy", 503: "busy" };
  return { kind: kinds[status] ?? "server", text: message };
}
