// The keyboard: each shortcut has a name, and the app says what the name does.

const APPLE = /Mac|iPhone|iPad/.test(navigator.platform);
const MAIN = APPLE ? "⌘" : "Ctrl";

/** What is pressed for what, as it is shown. */
export const SHORTCUTS = {
  send: ["Enter"],
  line: ["Shift", "Enter"],
  stop: ["Esc"],
  fresh: [MAIN, "Shift", "O"],
  chats: [MAIN, "Shift", "S"],
  find: [MAIN, "K"],
  box: ["Shift", "Esc"],
  think: [MAIN, "Shift", "D"],
  web: [MAIN, "Shift", "E"],
  copy: [MAIN, "Shift", "C"],
  help: [MAIN, "/"],
};

const WITH_SHIFT = { KeyO: "fresh", KeyS: "chats", KeyD: "think", KeyE: "web", KeyC: "copy" };
const PLAIN = { KeyK: "find", Slash: "help" };

/** The shortcut that a keydown event means, or null. By place on the keyboard, so that it works in every script. */
export function shortcutOf(event) {
  if (event.isComposing) return null;
  if (event.key === "Escape") return event.shiftKey ? "box" : "stop";
  if (!(APPLE ? event.metaKey : event.ctrlKey) || event.altKey) return null;
  // "/" stands elsewhere on other keyboards.
  if (event.key === "/") return "help";
  return (event.shiftKey ? WITH_SHIFT : PLAIN)[event.code] ?? null;
}
