import { App } from "./app.js";

const root = document.getElementById("app");
const token = location.pathname.match(/^\/share\/([^/]+)$/)?.[1];

if (token) {
  const { showShared } = await import("./later/shared.js");
  await showShared(root, token);
} else {
  await new App(root).start();
  // Only https and the loopback have service workers.
  navigator.serviceWorker?.register("/worker.js").catch((error) => console.warn(error));
}
