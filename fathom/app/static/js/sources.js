// The sources of an answer: marks [n] in its text become links, the pages stand below it as chips, and a panel beside the
// conversation shows the passage that was used. Every address comes from the server's list, never from the model's words.

import { passage as readPassage, passagePage } from "./api.js";
import { el, icon, iconButton } from "./dom.js";
import { formatDate, formatNumber, t } from "./i18n.js";

const SHOWN_CHIPS = 4;
const MARK = /\[citation:(\d{1,4})\]/g;

/** The address of a source if a browser may follow it; own documents have none. */
export function safeUrl(source) {
  return /^https?:\/\//i.test(source.url ?? "") ? source.url : null;
}

/** Where a source can be read: the page, or for a passage of an own document the server's page of it. */
function addressOf(source) {
  return safeUrl(source) ?? (source.passage ? passagePage(source.passage) : null);
}

/** Where a source comes from, as people name it: the host of a page, the name of a file. */
export function placeOf(source) {
  const url = safeUrl(source);
  if (url && URL.canParse(url)) return new URL(url).host.replace(/^www\./, "");
  return decodeURI(source.url ?? "").split(/[\\/]/).at(-1) || t("ownDocument");
}

// A site's own icon would tell it who reads, so each gets a letter on a colour that is always the same.
function badgeOf(source) {
  const place = placeOf(source);
  const tone = Array.from(place).reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 6, 0);
  const face = safeUrl(source) ? (place.match(/[\p{L}\p{N}]/u)?.[0] ?? "?").toUpperCase() : icon("file");
  return el("span", { class: `site tone-${tone}`, "aria-hidden": "true" }, face);
}

/**
 * Makes a link of every mark [citation:N] below `root` that names one of `sources`. `numbers` (place of a source -> number that
 * is shown) grows in the order of the text; `supported`: what the server found about each mark in this order, null while it
 * is not known. Code, links and formulas are left as they are.
 */
export function linkCitations(root, { sources, numbers, supported }) {
  for (const link of root.querySelectorAll("a.cite")) link.replaceWith(`[citation:${link.dataset.source}]`);
  root.normalize();
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walker.nextNode()) if (walker.currentNode.data.includes("[citation:")) texts.push(walker.currentNode);
  let place = 0;
  for (const text of texts) {
    const marks = [...text.data.matchAll(MARK)];
    const verdicts = marks.map((_, index) => supported?.[place + index]?.supported ?? true);
    place += marks.length;
    if (!text.parentElement?.closest("a, pre, code, .math")) text.replaceWith(...linked(text.data, marks, verdicts, sources, numbers));
  }
}

function linked(text, marks, verdicts, sources, numbers) {
  const parts = [];
  let end = 0;
  marks.forEach((mark, index) => {
    const place = Number(mark[1]);
    const source = sources[place - 1];
    // The space before a mark stays with it, or it would stand alone at the start of a line.
    parts.push(text.slice(end, mark.index));
    if (source) parts.push(citation(source, place, numberOf(place, numbers), verdicts[index]));
    end = mark.index + mark[0].length;
  });
  return [...parts, text.slice(end)];
}

function numberOf(place, numbers) {
  if (!numbers.has(place)) numbers.set(place, numbers.size + 1);
  return numbers.get(place);
}

function citation(source, place, number, supported) {
  const title = t("citation", formatNumber(number), source.title || placeOf(source));
  const name = supported ? title : t("doubtfulCitation", title);
  return el(
    "a",
    {
      class: supported ? "cite" : "cite doubtful",
      href: addressOf(source) ?? `#source-${place}`,
      target: "_blank",
      rel: "noopener noreferrer nofollow",
      "data-source": place,
      "aria-label": name,
      title: name,
    },
    formatNumber(number),
    supported ? null : icon("warn"),
  );
}

/** Text for the clipboard: marks as the numbers that are shown. */
export function plainCitations(text, numbers) {
  return text.replace(MARK, (mark, place) => (numbers.has(Number(place)) ? `[${numbers.get(Number(place))}]` : mark));
}

/** What a search is doing, from its progress. */
export function searchLine({ step, pages }) {
  return step === "reading" && pages ? t("reading", pages, formatNumber(pages)) : t("searching");
}

/** What a search gave. */
export function searchResult({ sources, notes }) {
  if (sources?.length) return t("searched", sources.length, formatNumber(sources.length));
  return notes?.some((note) => note.kind === "search_failed") ? t("searchFailed") : t("nothingFound");
}

/** Sources in the order in which they are shown: by the numbers of the cited ones, then the others as they were found. */
function ordered(sources, numbers) {
  const rank = (source) => numbers.get(sources.indexOf(source) + 1) ?? Infinity;
  return sources.toSorted((a, b) => (rank(a) === rank(b) ? 0 : rank(a) - rank(b)));
}

/** The chips below an answer: what it cites first, then what else was found, the rest in the panel. `open(source)`. */
export function sourceChips(sources, numbers, open) {
  if (!sources.length) return null;
  // What is cited stands here; where nothing is, what was found first.
  const shown = ordered(sources, numbers).slice(0, Math.min(SHOWN_CHIPS, numbers.size || SHOWN_CHIPS));
  const chips = shown.map((source) => el("li", {}, chip(source, numbers.get(sources.indexOf(source) + 1), open)));
  const more = el("button", { type: "button", class: "chip more-sources", onclick: () => open(null) }, t("allSources", sources.length, formatNumber(sources.length)));
  return el("ul", { class: "chips", "aria-label": t("sources") }, ...chips, sources.length > shown.length ? el("li", {}, more) : null);
}

function chip(source, number, open) {
  const words = el(
    "span",
    { class: "chip-words" },
    el("span", { class: "chip-title", dir: "auto" }, source.title || placeOf(source)),
    el("span", { class: "chip-place" }, ...factsOf(source)),
  );
  return el("button", { type: "button", class: "chip", title: source.title, onclick: () => open(source) }, badgeOf(source), words, numberBadge(number));
}

// Each on its own, or an Arabic line would mix up the parts of an address and a date.
function factsOf(source) {
  const place = el("bdi", {}, placeOf(source));
  return source.published ? [place, " · ", el("bdi", {}, formatDate(source.published))] : [place];
}

function numberBadge(number) {
  return number ? el("span", { class: "chip-number" }, formatNumber(number)) : null;
}

/** The panel beside the conversation: every source of an answer with the passage that was used. */
export class SourcePanel {
  #opener = null;

  /** `onClose()` is called when the panel was closed. */
  constructor(onClose) {
    this.onClose = onClose;
    this.body = el("div", { class: "panel-body" });
    const head = el("div", { class: "side-head" }, el("h2", {}, t("sources")), iconButton("close", t("closeSources"), () => this.close()));
    this.element = el("aside", { class: "panel", "aria-label": t("sources"), hidden: true }, head, this.body);
  }

  get isOpen() {
    return !this.element.hidden;
  }

  /** Shows what an answer's search found, at the passage of `at` (a source) with the words of `sentence` marked. */
  open({ sources, notes }, numbers, at = null, sentence = "") {
    if (!this.isOpen) this.#opener = document.activeElement;
    const cards = new Map(ordered(sources ?? [], numbers).map((source) => [source, card(source, numbers.get(sources.indexOf(source) + 1), source === at ? wordsOf(sentence) : null)]));
    const remarks = (notes ?? []).map((note) => el("p", { class: "note", dir: "auto" }, noteText(note)));
    this.body.replaceChildren(...cards.values(), ...remarks);
    this.element.hidden = false;
    const target = cards.get(at);
    (target?.querySelector("mark") ?? target)?.scrollIntoView({ block: "center" });
    (target ?? this.element.querySelector("button")).focus({ preventScroll: true });
  }

  close() {
    if (!this.isOpen) return;
    this.element.hidden = true;
    this.onClose();
    this.#opener?.focus?.();
  }
}

// `words`: what to mark in the passage; null for the sources that were not asked for.
function card(source, number, words) {
  const url = addressOf(source);
  const title = source.title || placeOf(source);
  const heading = url ? el("a", { href: url, target: "_blank", rel: "noopener noreferrer nofollow", dir: "auto" }, title) : el("span", { dir: "auto" }, title);
  const passage = el("p", { class: "passage", dir: "auto" }, ...withMarks(source.text || source.snippet || "", words ?? new Set()));
  const element = el(
    "article",
    { class: words ? "source current" : "source", tabindex: "-1", "aria-label": title },
    el("h3", {}, badgeOf(source), heading, numberBadge(number)),
    el("p", { class: "source-facts" }, ...factsOf(source)),
    passage,
  );
  if (source.passage) element.append(contextButton(source, passage));
  return element;
}

// The passage of an own document can be read with what stands around it.
function contextButton(source, passage) {
  const button = el("button", { type: "button", class: "quiet small", onclick: () => show() }, t("showContext"));
  const show = async () => {
    button.disabled = true;
    // The document may be gone or changed since; what was used of it stays.
    const found = await readPassage(source.passage).catch(() => null);
    button.remove();
    if (!found) return;
    passage.replaceChildren(found.before, el("mark", {}, found.text), found.after);
    passage.querySelector("mark").scrollIntoView({ block: "center" });
  };
  return button;
}

/** A note of a search in the reader's language where its kind is known. */
function noteText(note) {
  const known = t("searchNotes")[note.kind];
  return known ? known(note.subject) : (note.text ?? note);
}

const SEGMENTS = new Intl.Segmenter(undefined, { granularity: "word" });

function wordsOf(sentence) {
  const words = new Set();
  for (const { segment, isWordLike } of SEGMENTS.segment(sentence)) if (isWordLike && longEnough(segment)) words.add(segment.toLowerCase());
  return words;
}

// Short words of an alphabet say nothing; a Chinese word has two characters.
function longEnough(word) {
  return word.length > 3 || (/\p{Script=Han}/u.test(word) && word.length > 1);
}

function withMarks(text, words) {
  if (!words.size) return [text];
  return Array.from(SEGMENTS.segment(text), ({ segment }) => (words.has(segment.toLowerCase()) ? el("mark", {}, segment) : segment));
}

/** The words that a citation stands behind: back to the end of the sentence before. */
export function sentenceBefore(link) {
  const block = link.closest("p, li, td, h1, h2, h3, h4, h5, h6, blockquote") ?? link.parentElement;
  const range = document.createRange();
  range.setStart(block, 0);
  range.setEndBefore(link);
  const text = range.toString().trimEnd().replace(/[.!?。！？؟\d\s]+$/u, "");
  return text.split(/[.!?。！？؟]\s*/u).at(-1);
}
