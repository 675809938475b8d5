// Earlier versions kept chats in this browser (IndexedDB). They are handed to the server once and stay here untouched.

import { importChats } from "../api.js";
import { toast } from "../dialog.js";
import { formatNumber, t } from "../i18n.js";

const DATABASE = "fathom";
const DONE = "fathom.migrated";

export async function migrate(app) {
  const old = await oldChats();
  if (old.length) {
    const file = new File([JSON.stringify({ format: "fathom-chats", version: 1, chats: old.map(converted) })], "browser.json", { type: "application/json" });
    const { imported } = await importChats(file);
    if (imported) toast(t("imported", imported, formatNumber(imported)));
    await app.refresh();
  }
  localStorage.setItem(DONE, "true");
}

async function oldChats() {
  // Opening what does not exist would make it.
  if (!(await indexedDB.databases()).some(({ name }) => name === DATABASE)) return [];
  const settled = (request) =>
    new Promise((resolve, reject) => {
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
  const database = await settled(indexedDB.open(DATABASE));
  try {
    if (!database.objectStoreNames.contains("chats")) return [];
    return await settled(database.transaction("chats").objectStore("chats").getAll());
  } finally {
    database.close();
  }
}

const STATES = { done: "complete", stopped: "stopped", error: "failed" };

/** A chat as it was kept, in the shape of the server's export. */
export function converted({ id, title, created, updated, leaf, messages }) {
  return {
    id,
    title,
    created: created / 1000,
    updated: updated / 1000,
    head: leaf,
    messages: messages.map((message) => ({
      id: message.id,
      parent: message.parent,
      role: message.role,
      created: message.created / 1000,
      content: message.content,
      ...(message.role === "assistant" && {
        thought: message.thought ?? null,
        thought_seconds: message.thoughtMs == null ? null : message.thoughtMs / 1000,
        state: STATES[message.status] ?? "stopped",
        model: message.model ?? null,
      }),
    })),
  };
}
