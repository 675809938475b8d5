// What a conversation is: a tree of messages, because editing a question or asking again opens a branch beside the old one.
// Pure functions over plain objects that can be stored as they are; nothing here touches the page or the network.
//
// chat:    {id, title, created, updated, leaf, messages: [message]}
// message: {id, parent, role, content, ...} and for an answer also
//          {thought, thoughtMs, status, error, finish, usage, firstMs, totalMs, model}
// status:  "waiting" | "streaming" | "done" | "stopped" | "error"

const TITLE_LENGTH = 60;

export function newId() {
  // crypto.randomUUID needs https; the page must also work on a home network without it.
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newChat(now = Date.now()) {
  return { id: newId(), title: "", created: now, updated: now, leaf: null, messages: [] };
}


/** Adds a message below `parent` (null: at the root) and makes it the end of the visible path. */
export function addMessage(chat, parent, message) {
  const added = { id: newId(), parent, created: Date.now(), ...message };
  chat.messages.push(added);
  chat.leaf = added.id;
  if (!chat.title && added.role === "user") chat.title = titleOf(added.content);
  return added;
}

/** The visible path from the first message to `chat.leaf`. */
export function path(chat) {
  const byId = new Map(chat.messages.map((message) => [message.id, message]));
  const result = [];
  for (let message = byId.get(chat.leaf); message; message = byId.get(message.parent)) result.unshift(message);
  return result;
}

/** The messages that stand at the same place as `message`, itself included, oldest first. */
export function siblings(chat, message) {
  return chat.messages.filter((other) => other.parent === message.parent && other.role === message.role);
}

/** Shows the branch of `message`: the path goes on to the newest message below it. */
export function show(chat, message) {
  let leaf = message;
  for (;;) {
    const children = chat.messages.filter((other) => other.parent === leaf.id);
    if (!children.length) break;
    leaf = children.at(-1);
  }
  chat.leaf = leaf.id;
}

/** What the model is asked: the path above `answer`, without thoughts and without answers that never came. */
export function prompt(chat, answer) {
  const result = [];
  for (const message of path(chat)) {
    if (message.id === answer.id) break;
    if (message.role === "user" || message.content) result.push({ role: message.role, content: message.content });
  }
  return result;
}

/** A page that was closed in mid-answer leaves the answer open: what was shown stays, marked as stopped. */
export function closeInterrupted(chat) {
  let changed = false;
  for (const message of chat.messages) {
    if (message.status !== "streaming" && message.status !== "waiting") continue;
    message.status = "stopped";
    changed = true;
  }
  return changed;
}

/** The first line of a question, cut at a word where there is one. */
export function titleOf(text) {
  const line = text.trim().split("\n", 1)[0].trim();
  const letters = Array.from(line);
  if (letters.length <= TITLE_LENGTH) return line;
  const cut = letters.slice(0, TITLE_LENGTH).join("");
  const space = cut.lastIndexOf(" ");
  return `${space > TITLE_LENGTH / 2 ? cut.slice(0, space) : cut}…`;
}
