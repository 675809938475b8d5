// The library of prompts: texts that are used often, kept on the server.

import { prompts } from "../api.js";
import { openDialog } from "../dialog.js";
import { el, iconButton } from "../dom.js";
import { t } from "../i18n.js";

export async function openPrompts(app) {
  const list = el("ul", { class: "list" });
  const name = el("input", { type: "text", class: "field", dir: "auto", maxlength: 100, required: true });
  const text = el("textarea", { class: "field", dir: "auto", rows: 3, required: true });
  text.value = app.composer.text;
  const choose = (chosen) => {
    dialog.close();
    app.fill(chosen);
  };
  const show = async () => {
    const known = await prompts.list();
    const entries = known.map((prompt) =>
      el(
        "li",
        {},
        el("button", { type: "button", class: "grow", dir: "auto", onclick: () => choose(prompt.text) }, prompt.title, el("span", {}, prompt.text)),
        iconButton("bin", `${t("remove")}: ${prompt.title}`, async () => {
          await prompts.remove(prompt.id);
          await show();
        }),
      ),
    );
    list.replaceChildren(...(entries.length ? entries : [el("li", { class: "hint" }, t("noPrompts"))]));
  };
  const add = async (event) => {
    event.preventDefault();
    await prompts.add({ title: name.value.trim(), text: text.value.trim() });
    name.value = text.value = "";
    await show();
  };
  const form = el(
    "form",
    { class: "form", onsubmit: add },
    el("label", {}, t("promptName"), name),
    el("label", {}, t("promptText"), text),
    el("div", { class: "dialog-buttons" }, el("button", { type: "submit", class: "primary" }, t("savePrompt"))),
  );
  await show();
  const dialog = openDialog(t("promptsTitle"), [el("p", { class: "hint" }, t("promptsHint")), list, el("h3", {}, t("savePrompt")), form]);
}
