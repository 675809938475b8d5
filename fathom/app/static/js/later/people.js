// For administrators: who has an account, what each used, and the few things one does with them.

import { people } from "../api.js";
import { confirmDialog, menuButton, openDialog, promptDialog, toast } from "../dialog.js";
import { el } from "../dom.js";
import { formatNumber, t } from "../i18n.js";

export async function openPeople() {
  const rows = el("tbody", {});
  const table = el("table", { class: "data" }, el("thead", {}, el("tr", {}, ...[t("userName"), t("used"), t("quota"), ""].map((text) => el("th", { scope: "col" }, text)))), rows);
  const attempt = async (work) => {
    try {
      await work();
      await show();
    } catch (error) {
      toast(error.message || t("errors").network);
    }
  };
  const show = async () => rows.replaceChildren(...(await people.list()).map((person) => row(person, attempt)));
  await show();
  openDialog(t("users"), [el("div", { class: "scroll-x" }, table), el("h3", {}, t("addUser")), newPerson(attempt)], { wide: true });
}

function row(person, attempt) {
  const { id, name, admin, quota, used } = person;
  const items = () => [
    { icon: "edit", label: t("quota"), action: () => ask(t("quota"), String(quota ?? ""), (value) => people.change(id, { quota: Number(value) || null })) },
    { icon: "shield", label: t("newPassword"), action: () => ask(t("newPassword"), "", (value) => people.change(id, { password: value })) },
    { icon: admin ? "check" : "user", label: t("admin"), checked: Boolean(admin), action: () => attempt(() => people.change(id, { admin: !admin })) },
    { icon: "bin", label: t("remove"), danger: true, action: () => remove() },
  ];
  const ask = async (title, before, change) => {
    const value = await promptDialog(title, before);
    if (value != null) await attempt(() => change(value));
  };
  const remove = async () => {
    if (await confirmDialog(t("deleteUserTitle", name), t("deleteUserText"), t("remove"))) await attempt(() => people.remove(id));
  };
  return el(
    "tr",
    {},
    el("td", { dir: "auto" }, name, admin ? ` (${t("admin")})` : ""),
    el("td", { class: "number" }, formatNumber(used)),
    el("td", { class: "number" }, quota == null ? t("unlimited") : formatNumber(quota)),
    el("td", {}, menuButton("more", t("actionsFor", name), items)),
  );
}

function newPerson(attempt) {
  const name = el("input", { type: "text", class: "field", autocomplete: "off", required: true, dir: "auto" });
  const password = el("input", { type: "text", class: "field", autocomplete: "off", minlength: 8, required: true });
  const add = async (event) => {
    event.preventDefault();
    await attempt(async () => {
      await people.add({ name: name.value.trim(), password: password.value });
      name.value = password.value = "";
    });
  };
  return el("form", { class: "form", onsubmit: add }, el("label", {}, t("userName"), name), el("label", {}, t("password"), password), el("div", { class: "dialog-buttons" }, el("button", { type: "submit", class: "primary" }, t("addUser"))));
}
