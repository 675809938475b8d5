// Windows over the page: dialogs and menus. Both are the browser's own (dialog, popover), so that focus, Escape and screen
// readers are as people know them.

import { el, icon, iconButton } from "./dom.js";
import { t } from "./i18n.js";

let opened = 0;

/** Opens a dialog with a title and `parts`; returns {element, close()}. What was focused gets the focus back. */
export function openDialog(title, parts, { wide = false, onClose = () => {} } = {}) {
  const id = `dialog-${(opened += 1)}`;
  const head = el("header", { class: "dialog-head" }, el("h2", { id }, title), iconButton("close", t("close"), () => dialog.close()));
  const dialog = el("dialog", { class: wide ? "dialog wide" : "dialog", "aria-labelledby": id }, head, el("div", { class: "dialog-body" }, ...parts));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    dialog.remove();
    onClose();
  });
  // Escape belongs to the dialog: it must not stop the answer behind it.
  dialog.addEventListener("keydown", (event) => event.stopPropagation());
  document.body.append(dialog);
  dialog.showModal();
  return { element: dialog, close: () => dialog.close() };
}

/** Asks before something that cannot be taken back; resolves to whether it was confirmed. */
export function confirmDialog(title, text, action) {
  return new Promise((resolve) => {
    let confirmed = false;
    const finish = (answer) => {
      confirmed = answer;
      dialog.close();
    };
    const buttons = el(
      "div",
      { class: "dialog-buttons" },
      el("button", { type: "button", class: "quiet", autofocus: true, onclick: () => finish(false) }, t("cancel")),
      el("button", { type: "button", class: "danger", onclick: () => finish(true) }, action),
    );
    const dialog = openDialog(title, [el("p", {}, text), buttons], { onClose: () => resolve(confirmed) });
  });
}

/** Asks for one line of text; resolves to it, or to null when nothing was said. */
export function promptDialog(title, value, label = title) {
  return new Promise((resolve) => {
    let given = null;
    const input = el("input", { type: "text", class: "field", "aria-label": label, autofocus: true, dir: "auto", maxlength: 200 });
    input.value = value;
    const save = (event) => {
      event.preventDefault();
      given = input.value.trim() || null;
      dialog.close();
    };
    const form = el(
      "form",
      { onsubmit: save },
      input,
      el(
        "div",
        { class: "dialog-buttons" },
        el("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, t("cancel")),
        el("button", { type: "submit", class: "primary" }, t("ok")),
      ),
    );
    const dialog = openDialog(title, [form], { onClose: () => resolve(given) });
    input.select();
  });
}

/**
 * A button that opens a menu; `items()` gives [{icon, label, action, danger, checked}] when it opens, null where there is none.
 * `checked` (true or false) makes the item one of a choice.
 */
export function menuButton(name, label, items, attributes = {}) {
  const button = iconButton(name, label, () => openMenu(button, items().filter(Boolean)), { "aria-haspopup": "menu", "aria-expanded": "false", ...attributes });
  return button;
}

export function openMenu(anchor, items) {
  const choose = (action) => () => {
    menu.hidePopover();
    anchor.focus();
    action();
  };
  const menu = el(
    "div",
    { class: "menu", role: "menu", popover: "auto", "aria-label": anchor.getAttribute("aria-label") },
    ...items.map(({ icon: name, label, action, danger, checked }) =>
      el(
        "button",
        {
          type: "button",
          role: checked == null ? "menuitem" : "menuitemradio",
          "aria-checked": checked == null ? null : String(checked),
          class: danger ? "menu-item danger-text" : "menu-item",
          tabindex: "-1",
          onclick: choose(action),
        },
        icon(name ?? (checked ? "check" : "none")),
        el("span", { dir: "auto" }, label),
      ),
    ),
  );
  menu.addEventListener("keydown", (event) => moveInMenu(event, menu, anchor));
  menu.addEventListener("toggle", (event) => {
    anchor.setAttribute("aria-expanded", String(event.newState === "open"));
    if (event.newState === "closed") menu.remove();
  });
  // In a dialog the menu must lie inside it, or it would be inert; elsewhere in the landmark that its button stands in.
  (anchor.closest("dialog, nav, main") ?? document.body).append(menu);
  menu.showPopover();
  place(menu, anchor);
  menu.querySelector("button")?.focus();
}

function moveInMenu(event, menu, anchor) {
  const buttons = [...menu.querySelectorAll("button")];
  const at = buttons.indexOf(document.activeElement);
  const steps = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 };
  if (event.key in steps) buttons.at(steps[event.key] % buttons.length).focus();
  else if (event.key === "Escape" || event.key === "Tab") {
    menu.hidePopover();
    anchor.focus();
  } else return;
  event.preventDefault();
  event.stopPropagation();
}

// Below the button where there is room, else above; never beyond the window.
function place(menu, anchor) {
  const at = anchor.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = menu;
  const rtl = getComputedStyle(anchor).direction === "rtl";
  const left = rtl ? at.left : at.right - width;
  const top = at.bottom + 4 + height > innerHeight - 8 ? at.top - height - 4 : at.bottom + 4;
  menu.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
  menu.style.top = `${Math.max(8, top)}px`;
}

/** A word at the lower edge for a moment: what was just done. */
export function toast(text) {
  document.querySelector(".toast")?.remove();
  const note = el("div", { class: "toast", role: "status", popover: "manual" }, text);
  document.body.append(note);
  note.showPopover();
  setTimeout(() => note.remove(), 3500);
}
