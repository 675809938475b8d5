// What a conversation is: a tree of messages, because editing a question or asking again opens a branch beside the old one.
// Pure functions over the server's objects (docs/app.md, "Chats and messages"); nothing here touches the page or the network.

/** A chat that the server does not know yet. */
export function newChat(temporary = false) {
  return { id: null, title: "", head: null, messages: [], temporary, version: 0 };
}

/** The visible path from the first message to `chat.head`. */
export function path(chat) {
  const byId = new Map(chat.messages.map((message) => [message.id, message]));
  const result = [];
  for (let message = byId.get(chat.head); message; message = byId.get(message.parent)) result.unshift(message);
  return result;
}

/** The messages that stand at the same place as `message`, itself included, oldest first. */
export function siblings(chat, message) {
  return chat.messages.filter((other) => other.parent === message.parent && other.role === message.role);
}

/** The end of the branch of `message`: the newest message below it. */
export function leafOf(chat, message) {
  let leaf = message;
  for (;;) {
    const children = chat.messages.filter((other) => other.parent === leaf.id);
    if (!children.length) return leaf.id;
    leaf = children.at(-1);
  }
}

/** Adds messages that the server does not know yet below `parent` and shows them. */
export function addLocal(chat, parent, ...messages) {
  let above = parent;
  for (const message of messages) {
    Object.assign(message, { id: `local-${crypto.getRandomValues(new Uint32Array(1))[0]}`, parent: above, local: true });
    chat.messages.push(message);
    above = message.id;
  }
  chat.head = above;
}

/** Takes back what the server never came to know. */
export function dropLocal(chat, head) {
  chat.messages = chat.messages.filter((message) => !message.local);
  chat.head = head;
}

/** The server's word on messages that were added locally: they keep their place and get their names. */
export function settleLocal(chat, pairs) {
  for (const [local, known] of pairs) {
    const before = local.id;
    Object.assign(local, known, { local: false });
    for (const message of chat.messages) if (message.parent === before) message.parent = known.id;
    if (chat.head === before) chat.head = known.id;
  }
}

export function isRunning(message) {
  return message.state === "running";
}

/** The answer of the visible path that is on its way, if any. */
export function runningAnswer(chat) {
  return path(chat).find(isRunning);
}
