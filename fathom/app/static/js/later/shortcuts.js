// The list of keyboard shortcuts. What they do is in keys.js.

import { openDialog } from "../dialog.js";
import { el } from "../dom.js";
import { t } from "../i18n.js";
import { SHORTCUTS } from "../keys.js";

export function openShortcuts() {
  const names = t("shortcutList");
  const rows = Object.entries(SHORTCUTS).flatMap(([action, keys]) => [el("dt", {}, names[action]), el("dd", { dir: "ltr" }, ...keys.flatMap((key, index) => [index ? " + " : "", el("kbd", {}, key)]))]);
  openDialog(t("shortcuts"), [el("dl", { class: "keys" }, ...rows)]);
}
