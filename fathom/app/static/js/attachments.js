// The files that go with the next question: chosen, dropped or pasted, sent to the server at once, shown as chips.

import { el, icon, iconButton } from "./dom.js";
import { formatBytes, formatNumber, t } from "./i18n.js";

export class Attachments {
  #files = [];
  /** What the server takes: {file_bytes, files, extensions}; not known before the session. */
  limits = {};

  /** `upload(file, onProgress, signal)` gives what the server made of a file, `forget` takes that back; `onChange()` follows every change. */
  constructor({ upload, forget }, onChange) {
    this.upload = upload;
    this.forget = forget;
    this.onChange = onChange;
    this.element = el("ul", { class: "files", "aria-label": t("files"), hidden: true });
  }

  /** Whether all files are there; a question waits for them. */
  get settled() {
    return this.#files.every(({ state }) => state !== "sending");
  }

  /** What the server made of the files that it has taken. */
  get taken() {
    return this.#files.filter(({ state }) => state === "taken").map(({ result }) => result);
  }

  add(files) {
    for (const file of files) this.#send(file);
  }

  clear() {
    for (const entry of this.#files) if (entry.state === "sending") entry.controller.abort();
    this.#files = [];
    this.#show();
  }

  async #send(file) {
    const entry = { name: file.name, state: "sending", share: 0, controller: new AbortController() };
    this.#files.push(entry);
    const reason = this.#refusal(file);
    if (reason) Object.assign(entry, { state: "refused", reason });
    this.#show();
    if (reason) return;
    const progress = (share) => {
      entry.share = share;
      entry.bar?.setAttribute("value", share);
    };
    try {
      entry.result = await this.upload(file, progress, entry.controller.signal);
      entry.state = "taken";
    } catch (error) {
      if (error.name === "AbortError") return;
      entry.state = "refused";
      entry.reason = error.status ? error.message || t("errors").server : t("errors").network;
    }
    this.#show();
  }

  // What the server would refuse anyway is said before it is sent.
  #refusal(file) {
    const { file_bytes: most, files, extensions } = this.limits;
    const extension = file.name.match(/\.[^.]+$/)?.[0].toLowerCase();
    if (files && this.#files.filter(({ state }) => state !== "refused").length > files) return t("tooManyFiles", formatNumber(files));
    if (most && file.size > most) return t("fileTooLarge", formatBytes(most));
    if (extension && extensions && !extensions.includes(extension)) return t("fileUnknown", extension);
    if (!file.size) return t("fileEmpty");
    return null;
  }

  #remove(entry) {
    entry.controller.abort();
    if (entry.result) this.forget(entry.result);
    this.#files = this.#files.filter((other) => other !== entry);
    this.#show();
  }

  #show() {
    this.element.replaceChildren(...this.#files.map((entry) => this.#chip(entry)));
    this.element.hidden = !this.#files.length;
    this.onChange();
  }

  #chip(entry) {
    const { name, state, result, reason } = entry;
    entry.bar = state === "sending" ? el("progress", { max: 1, value: entry.share, "aria-label": t("sendingFile", name) }) : null;
    const words = el("span", { class: "chip-words" }, el("span", { class: "chip-title", dir: "auto" }, name), entry.bar ?? el("span", { class: "chip-place", dir: "auto", role: state === "refused" ? "alert" : null }, state === "refused" ? reason : fileFacts(result)));
    const face = el("span", { class: "site", "aria-hidden": "true" }, icon(state === "refused" ? "warn" : "file"));
    const remove = iconButton("close", t("removeFile", name), () => this.#remove(entry));
    return el("li", { class: `chip file ${state}` }, face, words, remove);
  }
}

/** Size and length of a file, as people understand them. */
export function fileFacts({ bytes, tokens, used }) {
  const facts = [bytes == null ? null : formatBytes(bytes)];
  if (tokens) facts.push(t("fileTokens", tokens, formatNumber(tokens)));
  if (used === "passages") facts.push(t("filePassages"));
  return facts.filter(Boolean).join(" · ");
}

/** The files of a question that was asked. */
export function fileChips(files) {
  if (!files?.length) return null;
  const chips = files.map((file) =>
    el(
      "li",
      { class: "chip file" },
      el("span", { class: "site", "aria-hidden": "true" }, icon("file")),
      el("span", { class: "chip-words" }, el("span", { class: "chip-title", dir: "auto" }, file.name), el("span", { class: "chip-place" }, fileFacts(file))),
    ),
  );
  return el("ul", { class: "files", "aria-label": t("files") }, ...chips);
}
