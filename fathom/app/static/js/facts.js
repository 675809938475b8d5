// What an answer took: tokens, time, speed, money, on demand.

import { el } from "./dom.js";
import { formatMoney, formatNumber, t } from "./i18n.js";

// Names of price plans as people know them.
const PLANS = { "gpt-4-0613": "GPT-4" };

/** The facts of an answer, in lines; `session` says which prices they are compared with. */
export function answerFacts({ usage, timings, model, cost }, session) {
  const used = [model, ...tokensOf(usage)];
  const times = timesOf(timings);
  const money = session?.data?.model?.where === "web" ? [] : [t("costHere")];
  if (cost) {
    money.push(t("costOf"));
    for (const [name, dollars] of [[session?.prices?.plan, cost.usd], [session?.prices?.compare, cost.compare_usd]]) {
      if (name && dollars != null) money.push(t("costAt", PLANS[name] ?? name, formatMoney(dollars)));
    }
  }
  return [used, times, money].filter((line) => line.length).map((line) => el("p", {}, ...line.filter(Boolean).map((text) => el("span", { dir: "auto" }, text))));
}

function tokensOf(usage) {
  if (!usage) return [];
  const { completion_tokens: written, prompt_tokens: read, cached_tokens: cached, thought_tokens: thought } = usage;
  return [
    t("answerTokens", written, formatNumber(written)),
    thought ? t("thoughtTokens", formatNumber(thought)) : null,
    t("promptTokens", read, formatNumber(read)),
    cached ? t("cachedTokens", formatNumber(cached)) : null,
  ];
}

function timesOf(timings) {
  if (!timings) return [];
  const { total_seconds: total, first_token_seconds: first, tokens_per_second: rate } = timings;
  return [
    total == null ? null : t("seconds", formatNumber(total, 1)),
    first == null ? null : t("firstAfter", formatNumber(first, 2)),
    rate == null ? null : t("rate", formatNumber(rate, 1)),
  ];
}
