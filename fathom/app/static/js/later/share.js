// Sharing a chat: a link to a frozen copy, which can be taken back.

import { share, shares, unshare } from "../api.js";
import { openDialog, toast } from "../dialog.js";
import { copyText, el, icon } from "../dom.js";
import { t } from "../i18n.js";

export async function openShare(app, chat) {
  const body = el("div", { class: "form" });
  const thoughts = el("input", { type: "checkbox", class: "switch", role: "switch" });
  const showLink = ({ token, path }) => {
    const link = new URL(path, location.href).href;
    const field = el("input", { type: "text", class: "field", readonly: true, dir: "ltr", "aria-label": t("sharedLink"), onfocus: () => field.select() });
    field.value = link;
    const copy = async () => {
      await copyText(link);
      toast(t("copied"));
    };
    const remove = async () => {
      await unshare(token);
      toast(t("linkRemoved"));
      offer();
    };
    body.replaceChildren(
      field,
      el(
        "div",
        { class: "dialog-buttons" },
        el("button", { type: "button", class: "danger", onclick: remove }, t("removeLink")),
        el("button", { type: "button", class: "primary", onclick: copy }, icon("copy"), t("copyLink")),
      ),
    );
  };
  const offer = () => {
    const create = async () => showLink(await share(chat.id, { thoughts: thoughts.checked }));
    body.replaceChildren(
      el("label", { class: "row" }, t("shareThoughts"), thoughts),
      el("div", { class: "dialog-buttons" }, el("button", { type: "button", class: "primary", onclick: create }, icon("share"), t("createLink"))),
    );
  };
  const known = (await shares()).shares.find((one) => one.chat === chat.id);
  if (known) showLink(known);
  else offer();
  openDialog(t("shareTitle"), [el("p", {}, t("shareText")), body]);
}
