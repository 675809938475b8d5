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

const THEME = "fathom.theme";

/** "system", "light" or "dark". */
export function theme() {
  return localStorage.getItem(THEME) ?? "system";
}

export function chooseTheme(name) {
  localStorage.setItem(THEME, name);
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
}

/** Tells the document its language and direction. */
export function apply() {
  document.documentElement.lang = language;
  document.documentElement.dir = LANGUAGES[language].direction;
}

export function formatNumber(value, digits = 0) {
  return new Intl.NumberFormat(language, { maximumFractionDigits: digits, minimumFractionDigits: digits }).format(value);
}

export function formatBytes(bytes) {
  const [unit, size] = [["gigabyte", 1e9], ["megabyte", 1e6], ["kilobyte", 1e3], ["byte", 1]].find(([, least]) => bytes >= least) ?? ["byte", 1];
  return new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: unit === "byte" ? "long" : "short", maximumFractionDigits: bytes / size < 10 && unit !== "byte" ? 1 : 0 }).format(bytes / size);
}

/** A date as people of the language write it; what is no date is shown as it came. */
export function formatDate(value) {
  const date = new Date(value);
  if (Number.isNaN(date.getTime())) return String(value);
  return new Intl.DateTimeFormat(language, { dateStyle: "medium" }).format(date);
}

export function formatMoney(dollars) {
  const digits = dollars === 0 ? 0 : dollars < 0.0001 ? 6 : dollars < 1 ? 4 : 2;
  return new Intl.NumberFormat(language, { style: "currency", currency: "USD", minimumFractionDigits: digits, maximumFractionDigits: digits }).format(dollars);
}

const DAY = 24 * 60 * 60 * 1000;
const capital = (text) => text.charAt(0).toLocaleUpperCase(language) + text.slice(1);

/** The day of a time in milliseconds as people name it: today, yesterday, the weekday, the month, the month of a year. */
export function dayName(time, now = Date.now()) {
  const midnight = new Date(now).setHours(0, 0, 0, 0);
  const days = time >= midnight ? 0 : Math.ceil((midnight - time) / DAY);
  if (days < 2) return capital(new Intl.RelativeTimeFormat(language, { numeric: "auto" }).format(-days, "day"));
  const sameYear = new Date(time).getFullYear() === new Date(now).getFullYear();
  const options = days < 7 ? { weekday: "long" } : sameYear ? { month: "long" } : { month: "long", year: "numeric" };
  return capital(new Intl.DateTimeFormat(language, options).format(time));
}
