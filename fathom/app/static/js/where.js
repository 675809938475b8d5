// The badge that says where one's words go: this machine, another one, a service behind it, and with Search on which engines.

import { el, icon } from "./dom.js";
import { t } from "./i18n.js";

const LOOPBACK = /^(localhost|127(\.\d+){3}|\[::1\])$/;

export class Badge {
  constructor() {
    this.element = el("span", { class: "badge" });
    this.show(null, false);
  }

  /** `data` is the session's word on it ({model, search}), null while it is not known; `searches`: Search is on. */
  show(data, searches) {
    const [shape, text, hint] = whereabouts(data?.model);
    const outside = ({ where, host }) => where === "web" && !LOOPBACK.test(host ?? "");
    const engines = searches ? (data?.search ?? []).filter(outside).map(({ engine, host }) => host ?? engine) : [];
    const web = engines.length ? [icon("globe"), el("span", {}, engines.join(", "))] : [];
    this.element.replaceChildren(icon(shape), el("span", {}, text), ...web);
    this.element.title = engines.length ? `${hint} ${t("hereSearch", engines.join(", "))}` : hint;
    this.element.classList.toggle("outside", shape !== "shield" || engines.length > 0);
  }
}

function whereabouts(model) {
  if (model?.where === "web") return ["globe", t("upstream", model.host), t("upstreamHint", model.host)];
  if (LOOPBACK.test(location.hostname)) return ["shield", t("here"), t("hereHint")];
  return ["shield", t("there", location.host), t("thereHint", location.host)];
}
