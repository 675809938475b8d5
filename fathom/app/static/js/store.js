// The chats of this browser, until the server keeps them (issue 7): IndexedDB, bounded, seen alike by every tab.
// The last half second of a running answer, which IndexedDB may miss when the page goes, is kept in localStorage.

const DATABASE = "fathom";
const CHATS = "chats";
const JOURNAL = "fathom.journal.";
export const MAX_CHATS = 200;

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function committed(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });
}

export class Store {
  #database;
  #channel = new BroadcastChannel("fathom");

  static async open() {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore(CHATS, { keyPath: "id" }).createIndex("updated", "updated");
    };
    const store = new Store();
    store.#database = await settled(request);
    await store.#replayJournals();
    return store;
  }

  #chats(mode) {
    return this.#database.transaction(CHATS, mode).objectStore(CHATS);
  }

  /** `{id, title, updated}` of every chat, newest first. */
  async list() {
    const chats = await settled(this.#chats("readonly").index("updated").getAll());
    return chats.reverse().map(({ id, title, updated }) => ({ id, title, updated }));
  }

  async get(id) {
    return settled(this.#chats("readonly").get(id));
  }

  /** Stores a chat and forgets the oldest ones beyond MAX_CHATS. Other tabs are told. */
  async put(chat) {
    const transaction = this.#database.transaction(CHATS, "readwrite");
    const chats = transaction.objectStore(CHATS);
    chats.put(chat);
    const count = await settled(chats.count());
    if (count > MAX_CHATS) {
      const oldest = await settled(chats.index("updated").getAllKeys(null, count - MAX_CHATS));
      for (const id of oldest) chats.delete(id);
    }
    await committed(transaction);
    localStorage.removeItem(JOURNAL + chat.id);
    this.#channel.postMessage(chat.id);
  }

  async delete(id) {
    const transaction = this.#database.transaction(CHATS, "readwrite");
    transaction.objectStore(CHATS).delete(id);
    await committed(transaction);
    localStorage.removeItem(JOURNAL + id);
    this.#channel.postMessage(id);
  }

  /** Stores at once, without waiting: for the moment in which the page goes. */
  journal(chat) {
    localStorage.setItem(JOURNAL + chat.id, JSON.stringify(chat));
  }

  async #replayJournals() {
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(JOURNAL));
    for (const key of keys) await this.put(JSON.parse(localStorage.getItem(key)));
  }

  /** Calls `listener(id)` when another tab has changed or deleted a chat. */
  onChange(listener) {
    this.#channel.onmessage = (event) => listener(event.data);
  }
}

const LOCK = "fathom.run.";

/** Runs `work` while this tab is known to answer in the chat `id`; without the lock API (plain http) just runs it. */
export function whileRunning(id, work) {
  return navigator.locks ? navigator.locks.request(LOCK + id, work) : work();
}

/** Whether some tab is answering in the chat `id` right now. */
export async function isRunning(id) {
  if (!navigator.locks) return false;
  const { held } = await navigator.locks.query();
  return held.some((lock) => lock.name === LOCK + id);
}
