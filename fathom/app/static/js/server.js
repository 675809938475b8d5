// Whether the server can answer: asked while the model loads, and again after a failure.

import { health } from "./api.js";

const POLL_MS = 400;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Server {
  /** "unknown" | "loading" | "ready" | "down" (it says why in `reason`) | "unreachable" */
  state = "unknown";
  reason = "";
  /** The model served, as the server names it. */
  model = "";
  /** Whether it can think before it answers; null while that is not known. */
  thinks = null;
  /** How much of it is loaded, from 0 to 1; null where that is not known. */
  progress = null;
  #watching = null;
  #listeners = new Set();

  onChange(listener) {
    this.#listeners.add(listener);
  }

  /** Asks once. */
  async recheck() {
    const { ready, detail } = await health();
    const alive = detail?.status === "failed" || detail?.status === "draining" ? "down" : "loading";
    const state = ready ? "ready" : detail ? alive : "unreachable";
    this.reason = detail?.error ?? "";
    this.model = detail?.model ?? this.model;
    this.thinks = detail?.thinks ?? null;
    const before = this.progress;
    this.progress = detail?.progress?.fraction ?? null;
    if (state === this.state && before === this.progress) return;
    this.state = state;
    for (const listener of this.#listeners) listener();
  }

  /** Asks until the server is ready; calls while that goes on share one watch. */
  watch() {
    this.#watching ??= this.#poll().finally(() => {
      this.#watching = null;
    });
    return this.#watching;
  }

  async #poll() {
    await this.recheck();
    for (let wait = POLL_MS; this.state !== "ready"; wait = Math.min(wait * 1.3, 5000)) {
      await pause(this.state === "loading" ? POLL_MS : wait);
      await this.recheck();
    }
  }
}
