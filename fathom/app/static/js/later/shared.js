// A shared chat, to read only: what a link shows to whoever has it.

import { shared } from "../api.js";
import { brand } from "../app.js";
import { el } from "../dom.js";
import { apply, t } from "../i18n.js";
import { SourcePanel } from "../sources.js";
import { Transcript } from "../transcript.js";

export async function showShared(root, token) {
  apply();
  const panel = new SourcePanel(() => {});
  const actions = { readOnly: true, openSources: (answer, source, sentence, numbers) => panel.open(answer, numbers, source, sentence) };
  const transcript = new Transcript({ server: {}, session: null, actions, askStarter: () => {} });
  const banner = el("p", { class: "banner", role: "status" }, t("sharedBanner"));
  const header = el("header", { class: "top" }, brand());
  root.replaceChildren(el("main", { class: "shared" }, header, banner, transcript.element), panel.element);
  try {
    const { title, messages } = await shared(token);
    document.title = title ? `${title} · Fathom` : "Fathom";
    transcript.show({ id: token, title, head: messages.at(-1)?.id ?? null, messages }, { follow: false });
  } catch {
    banner.textContent = t("sharedGone");
    transcript.element.hidden = true;
  }
}
