// The settings: what the page looks like, and what the model is told. Each is kept as soon as it is changed.

import { changePassword, logout, memories, saveSettings } from "../api.js";
import { openDialog, toast } from "../dialog.js";
import { el, iconButton } from "../dom.js";
import { choose, formatNumber, LANGUAGES, language, t, theme, chooseTheme } from "../i18n.js";

const THOUGHT_BUDGETS = [512, 2048, 8192, 32768];

export function openSettings(app) {
  const { settings, user } = app.session;
  const keep = async (values) => {
    Object.assign(settings, await saveSettings(values));
    toast(t("saved"));
  };
  const account = user?.name ? accountPart() : [];
  const parts = [looks(app, () => dialog.close()), el("h3", {}, t("model")), el("p", { class: "hint" }, app.session.model.name), modelPart(settings, keep), ...account];
  const dialog = openDialog(t("settings"), parts, { wide: true });
}

function select(label, entries, value, onchange) {
  const options = entries.map(([key, name, lang]) => el("option", { value: key, lang, selected: key === value }, name));
  const box = el("select", { class: "field", onchange: () => onchange(box.value) }, ...options);
  return el("label", { class: "row" }, label, box);
}

function looks(app, close) {
  const languages = Object.entries(LANGUAGES).map(([tag, { name }]) => [tag, name, tag]);
  const again = () => {
    close();
    app.rebuild();
  };
  return el(
    "div",
    { class: "form" },
    select(t("language"), languages, language, (tag) => {
      choose(tag);
      again();
    }),
    select(t("theme"), Object.entries(t("themes")), theme(), chooseTheme),
  );
}

function modelPart(settings, keep) {
  const system = el("textarea", { class: "field", dir: "auto", rows: 3, onchange: () => keep({ system: system.value.trim() }) });
  system.value = settings.system ?? "";
  const budgets = [["", t("unlimited")], ...THOUGHT_BUDGETS.map((tokens) => [String(tokens), formatNumber(tokens)])];
  const list = memoryList();
  list.hidden = !settings.memory;
  const memory = el("input", {
    type: "checkbox",
    class: "switch",
    role: "switch",
    checked: settings.memory,
    onchange: () => {
      list.hidden = !memory.checked;
      keep({ memory: memory.checked });
    },
  });
  return el(
    "div",
    { class: "form" },
    temperature(settings, keep),
    el("label", {}, t("systemPrompt"), system, el("span", { class: "hint" }, t("systemPromptHint"))),
    select(t("thoughtBudget"), budgets, String(settings.thought_tokens ?? ""), (value) => keep({ thought_tokens: value ? Number(value) : null })),
    el("label", { class: "row" }, el("span", {}, t("memory"), el("span", { class: "hint" }, t("memoryHint"))), memory),
    list,
  );
}

// Automatic, or a value; the slider moves only where a value was asked for.
function temperature(settings, keep) {
  const shown = el("output", {});
  const slider = el("input", { type: "range", min: 0, max: 2, step: 0.1, "aria-label": t("temperature") });
  const automatic = el("input", { type: "checkbox", class: "switch", role: "switch", checked: settings.temperature == null });
  const show = () => {
    slider.disabled = automatic.checked;
    shown.textContent = automatic.checked ? "" : formatNumber(Number(slider.value), 1);
  };
  slider.value = settings.temperature ?? 0.6;
  slider.addEventListener("input", show);
  slider.addEventListener("change", () => keep({ temperature: Number(slider.value) }));
  automatic.addEventListener("change", () => {
    show();
    keep({ temperature: automatic.checked ? null : Number(slider.value) });
  });
  show();
  return el(
    "div",
    { class: "row-label" },
    el("span", { class: "row" }, el("span", {}, t("temperature"), " ", shown), el("label", { class: "row" }, el("span", { class: "hint" }, t("automatic")), automatic)),
    slider,
    el("span", { class: "hint" }, t("temperatureHint")),
  );
}

function memoryList() {
  const list = el("ul", { class: "list", "aria-label": t("memories") });
  const input = el("input", { type: "text", class: "field", "aria-label": t("addMemory"), placeholder: t("addMemory"), dir: "auto" });
  const show = async () => {
    const known = await memories.list();
    list.replaceChildren(
      ...known.map(({ id, text }) =>
        el(
          "li",
          {},
          el("div", { class: "grow", dir: "auto" }, text),
          iconButton("bin", t("remove"), async () => {
            await memories.remove(id);
            await show();
          }),
        ),
      ),
    );
  };
  const add = async (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (!text) return;
    input.value = "";
    await memories.add({ text });
    await show();
  };
  show();
  return el("div", { class: "form" }, list, el("form", { class: "one-line", onsubmit: add }, input, el("button", { type: "submit", class: "quiet" }, t("add"))));
}

function accountPart() {
  const old = el("input", { type: "password", class: "field", autocomplete: "current-password", required: true });
  const fresh = el("input", { type: "password", class: "field", autocomplete: "new-password", minlength: 8, required: true });
  const failed = el("p", { class: "field-error", role: "alert", hidden: true });
  const change = async (event) => {
    event.preventDefault();
    try {
      await changePassword(old.value, fresh.value);
      old.value = fresh.value = "";
      failed.hidden = true;
      toast(t("saved"));
    } catch (error) {
      failed.textContent = error.message;
      failed.hidden = false;
    }
  };
  const everywhere = async () => {
    await logout(true);
    location.assign("/");
  };
  return [
    el("h3", {}, t("changePassword")),
    el(
      "form",
      { class: "form", onsubmit: change },
      el("label", {}, t("password"), old),
      el("label", {}, t("newPassword"), fresh),
      failed,
      el(
        "div",
        { class: "dialog-buttons" },
        el("button", { type: "button", class: "quiet", onclick: everywhere }, t("signOutAll")),
        el("button", { type: "submit", class: "primary" }, t("changePassword")),
      ),
    ),
  ];
}
