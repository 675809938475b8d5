// Moving a chat into a folder: one that is there, a new one, or none.

import { folders } from "../api.js";
import { openDialog, promptDialog } from "../dialog.js";
import { el, icon } from "../dom.js";
import { t } from "../i18n.js";

export async function moveToFolder(app, chat) {
  const known = (await folders()).folders.map(({ name }) => name);
  const go = (folder) => () => {
    dialog.close();
    app.move(chat, folder);
  };
  const fresh = async () => {
    dialog.close();
    const name = await promptDialog(t("newFolder"), "", t("folderName"));
    if (name) await app.move(chat, name);
  };
  const entry = (shape, label, action) => el("li", {}, el("button", { type: "button", class: "grow with-icon", onclick: action }, icon(shape), el("bdi", {}, label)));
  const entries = [
    ...known.map((name) => entry(name === chat.folder ? "check" : "folder", name, go(name))),
    chat.folder ? entry("close", t("noFolder"), go(null)) : null,
    entry("plus", t("newFolder"), fresh),
  ];
  const dialog = openDialog(t("moveToFolder"), [el("ul", { class: "list" }, ...entries.filter(Boolean))]);
}
