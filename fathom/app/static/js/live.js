// An answer on its way: takes the events of its run as they come, survives a lost connection, and tells the view.

import { ApiError, runEvents } from "./api.js";

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5000;

export class Live {
  #controller = new AbortController();
  #seq = null;
  #ended = false;
  // What the message held when we came to a run that others began: the run tells all of its part once more.
  #known = null;

  /**
   * `begun`: this page began the run, so nothing of it is in the message yet. `on`: answer(answer, what): something of the answer changed, `what` is "thought", "text" (with the new piece), "search",
   * "whole" or "state"; title(title); lost(whether): the connection is lost or back; end().
   */
  constructor(answer, begun, on) {
    this.answer = answer;
    this.run = answer.run;
    this.on = on;
    if (begun) return;
    this.#known = { thought: answer.thought ?? "", content: answer.content };
    answer.thoughtSince = Date.now() - (answer.thought_seconds ?? 0) * 1000;
  }

  /** Forgets the run; it goes on without us. */
  leave() {
    this.#controller.abort();
  }

  async follow() {
    let pause = FIRST_PAUSE_MS;
    while (!this.#ended && !this.#controller.signal.aborted) {
      try {
        for await (const event of runEvents(this.run, this.#seq, this.#controller.signal)) {
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

  #take({ id, kind, data }) {
    if (id) this.#seq = id;
    const { answer } = this;
    if (kind === "progress") this.#progress(data);
    else if (kind === "thought") {
      answer.thoughtSince ??= Date.now();
      this.#grow("thought", data.text);
    } else if (kind === "answer") {
      this.#grow("content", data.text);
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
    else if (kind === "end") this.#ended = true;
  }

  // The first piece of a run that we come to late holds what it has said so far; the stored message may hold a part of that.
  #grow(field, text) {
    const before = this.answer[field] ?? "";
    const known = this.#known?.[field];
    if (known) {
      this.answer[field] = known.slice(0, overlap(known, text)) + text;
      this.#known[field] = "";
      this.on.answer(this.answer, "whole");
      return;
    }
    this.answer[field] = before + text;
    this.on.answer(this.answer, field === "thought" ? "thought" : "text", text);
  }

  #progress(data) {
    this.answer.progress = data;
    this.on.answer(this.answer, data.stage === "search" ? "search" : "state");
  }
}

/** Where in `known` the text begins that `told` begins with and `known` ends with. */
export function overlap(known, told) {
  for (let start = Math.max(0, known.length - told.length); start < known.length; start += 1) {
    if (told.startsWith(known.slice(start))) return start;
  }
  return known.length;
}
