// Signing in, where the server has accounts.

import { login } from "../api.js";
import { brand } from "../app.js";
import { el } from "../dom.js";
import { t } from "../i18n.js";

/** Shows the form in place of the page; resolves once somebody has signed in. */
export function signIn(root) {
  return new Promise((resolve) => {
    const name = el("input", { type: "text", class: "field", autocomplete: "username", required: true, dir: "auto" });
    const password = el("input", { type: "password", class: "field", autocomplete: "current-password", required: true });
    const failed = el("p", { class: "field-error", role: "alert", hidden: true });
    const button = el("button", { type: "submit", class: "primary" }, t("signIn"));
    const submit = async (event) => {
      event.preventDefault();
      button.disabled = true;
      try {
        await login(name.value, password.value);
        resolve();
      } catch (error) {
        failed.textContent = error.status === 401 ? t("wrongPassword") : error.message || t("errors").network;
        failed.hidden = false;
        password.select();
      }
      button.disabled = false;
    };
    const form = el("form", { class: "form", onsubmit: submit }, brand(), el("label", {}, t("userName"), name), el("label", {}, t("password"), password), failed, button);
    root.replaceChildren(el("main", { class: "sign-in" }, form));
    root.classList.remove("with-sidebar");
    name.focus();
  });
}
