import { App } from "./app.js";
import { Store } from "./store.js";

// A browser that keeps nothing (a private window, say) can still converse.
const store = await Store.open().catch((error) => {
  console.error(error);
  return null;
});
await new App(document.getElementById("app"), store).start();
