// An answer on its way: takes the events of its run as they come, survives a lost connection, and tells the view.

import { ApiError, runEvents } from "./api.js";

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5000;

export class Live {
  #controller = new AbortController();
  #sequence;
  #open;
  #ended = false;

  /**
   * `answer.sequence` is the last event whose words are in it: what follows is asked for. `on`: answer(answer, what, text):
   * something of it changed, `what` is "thought" or "text" (with the new piece), "search", "whole" or "state";
   * files(message, files): how the files of a question were used; title(title); lost(whether): the connection; end().
   * `open`: {coming, controller} of the connection that the question was asked over, which brings the first events.
   */
  constructor(answer, on, open = null) {
    this.#open = open;
    if (open) this.#controller = open.controller;
    this.answer = answer;
    this.run = answer.run;
    this.on = on;
    this.#sequence = answer.sequence ?? 0;
    // A thought that we come to late has been going on for as long as was stored.
    if (answer.thought && !answer.content) answer.thoughtSince = Date.now() - (answer.thought_seconds ?? 0) * 1000;
  }

  /** Forgets the run; it goes on without us. */
  leave() {
    this.#controller.abort();
  }

  async follow() {
    let pause = FIRST_PAUSE_MS;
    while (!this.#ended && !this.#controller.signal.aborted) {
      try {
        for await (const event of this.#events()) {
          if (pause !== FIRST_PAUSE_MS) this.on.lost(false);
          pause = FIRST_PAUSE_MS;
          this.#take(event);
          if (this.#ended) break;
        }
      } catch (error) {
        if (error.name === "AbortError") return;
        if (!(error instanceof ApiError)) throw error;
        // The run is unknown: the server was started anew, and the chat knows more.
        if (error.status && error.status < 500) break;
      }
      if (this.#ended) break;
      await new Promise((resolve) => setTimeout(resolve, pause));
      if (pause > FIRST_PAUSE_MS) this.on.lost(true);
      pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
    }
    if (!this.#controller.signal.aborted) this.on.end();
  }

  #events() {
    const coming = this.#open?.coming ?? runEvents(this.run, this.#sequence, this.#controller.signal);
    this.#open = null;
    return coming;
  }

  #take({ id, kind, data }) {
    if (id) this.#sequence = id;
    const { answer } = this;
    if (kind === "progress") this.#progress(data);
    else if (kind === "thought") {
      answer.thoughtSince ??= Date.now();
      answer.thought = (answer.thought ?? "") + data.text;
      this.on.answer(answer, "thought", data.text);
    } else if (kind === "answer") {
      answer.content += data.text;
      this.on.answer(answer, "text", data.text);
    } else if (kind === "thought_end") {
      Object.assign(answer, { thought_seconds: data.seconds, thoughtEnded: true });
      this.on.answer(answer, "state");
    } else if (kind === "sources") {
      Object.assign(answer, { sources: data.sources, notes: data.notes });
      this.on.answer(answer, "search");
    } else if (kind === "message" || kind === "done") {
      Object.assign(answer, data.message);
      this.on.answer(answer, "whole");
    } else if (kind === "title") this.on.title(data.title);
    else if (kind === "files") this.on.files(data.message, data.files);
    else if (kind === "end") this.#ended = true;
  }

  #progress(data) {
    this.answer.progress = data;
    this.on.answer(this.answer, data.stage === "search" ? "search" : "state");
  }
}
