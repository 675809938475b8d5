// The interface's language: the browser's own unless another was chosen. One module a language, all with the same keys.

import ar from "./i18n/ar.js";
import en from "./i18n/en.js";
import zh from "./i18n/zh.js";

const KEY = "fathom.language";
export const LANGUAGES = { en, zh, ar };

function preferred() {
  const stored = localStorage.getItem(KEY);
  const wanted = [stored, ...navigator.languages].filter(Boolean).map((tag) => tag.slice(0, 2).toLowerCase());
  return wanted.find((tag) => tag in LANGUAGES) ?? "en";
}

export let language = preferred();

/** The text `key` of the chosen language; a text that counts or names something is a function of it. */
export function t(key, ...values) {
  const text = LANGUAGES[language][key];
  return typeof text === "function" ? text(...values) : text;
}

export function choose(tag) {
  language = tag;
  localStorage.setItem(KEY, tag);
  apply();
}

/** Tells the document its language and direction. */
export function apply() {
  document.documentElement.lang = language;
  document.documentElement.dir = LANGUAGES[language].direction;
}

export function formatNumber(value, digits = 0) {
  return new Intl.NumberFormat(language, { maximumFractionDigits: digits, minimumFractionDigits: digits }).format(value);
}
