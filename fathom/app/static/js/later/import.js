// Bringing in the exports of Fathom, DeepSeek and ChatGPT.

import { importChats } from "../api.js";
import { openDialog, toast } from "../dialog.js";
import { el } from "../dom.js";
import { formatNumber, t } from "../i18n.js";

export function chooseImport(app) {
  const picker = el("input", { type: "file", accept: ".json,.zip", hidden: true });
  picker.addEventListener("change", () => {
    picker.remove();
    if (picker.files[0]) bringIn(app, picker.files[0]);
  });
  document.body.append(picker);
  picker.click();
}

async function bringIn(app, file) {
  let result;
  try {
    result = await importChats(file);
  } catch (error) {
    toast(error.message || t("errors").network);
    return;
  }
  const { imported, already, skipped, notes } = result;
  await app.refresh();
  const lines = [
    t("imported", imported, formatNumber(imported)),
    already ? t("importedBefore", already, formatNumber(already)) : null,
    skipped ? t("importSkipped", skipped, formatNumber(skipped)) : null,
  ];
  if (!already && !skipped && !notes?.length) toast(lines[0]);
  else openDialog(t("importChats"), [...lines.filter(Boolean).map((line) => el("p", {}, line)), ...(notes ?? []).map((note) => el("p", { class: "hint", dir: "auto" }, note))]);
}
