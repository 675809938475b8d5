// Builds elements; text is always text. The page has no other way to make markup, save the sanitiser in markdown.js.

/** An element with attributes (`on*`: listeners; true, false and null as in HTML) and children (nodes or text). */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

// 24 x 24, drawn as strokes.
const ICONS = {
  menu: "M4 7h16M4 12h10M4 17h16",
  plus: "M12 5v14M5 12h14",
  send: "M12 19V5M6 11l6-6 6 6",
  think: "M12 3a6.5 6.5 0 0 0-4 11.6c.8.7 1 1.4 1 2.4h6c0-1 .2-1.7 1-2.4A6.5 6.5 0 0 0 12 3zM9.5 20.5h5",
  globe: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM3 12h18M12 3c5 5.5 5 12.5 0 18-5-5.5-5-12.5 0-18z",
  copy: "M9 9h11v11H9zM15 9V4H4v11h5",
  check: "M5 12.5l4.5 4.5L19 7.5",
  again: "M20 11a8 8 0 1 0-2.3 6.3M20 5v6h-6",
  edit: "M4 20l1-4L16 5l3 3L8 19l-4 1z",
  info: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM12 11v5.5M12 7.6v.1",
  bin: "M5 7h14M10 7V4.5h4V7M7 7l1 13h8l1-13",
  back: "M14.5 6l-6 6 6 6",
  next: "M9.5 6l6 6-6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  shield: "M12 3l7 3v5c0 4.5-3 8-7 10-4-2-7-5.5-7-10V6l7-3zM9 12l2.2 2.2L15.2 10",
  close: "M6 6l12 12M18 6L6 18",
  none: "",
  more: "M5.5 12h.01M12 12h.01M18.5 12h.01",
  gear: "M4 7h9M17 7h3M13 5v4M4 17h3M11 17h9M7 15v4",
  find: "M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13zM15.5 15.5L20 20",
  folder: "M3.5 7a1.5 1.5 0 0 1 1.5-1.5h4l2 2.5h8A1.5 1.5 0 0 1 20.5 9.5v8A1.5 1.5 0 0 1 19 19H5a1.5 1.5 0 0 1-1.5-1.5z",
  pin: "M9 4h6l-.8 6 3.3 3.5h-11L9.8 10zM12 13.5V20",
  share: "M12 15V4M8 7.5L12 4l4 3.5M6 11H5v9h14v-9h-1",
  download: "M12 4v11M8 11.5L12 15l4-3.5M5 19.5h14",
  upload: "M12 15V4M8 7.5L12 4l4 3.5M5 19.5h14",
  clip: "M19 11.5l-7.3 7.3a4.6 4.6 0 0 1-6.5-6.5l7.8-7.8a3 3 0 0 1 4.3 4.3l-7.8 7.8a1.5 1.5 0 0 1-2.1-2.1l7-7",
  like: "M7 11v9H4v-9zM7 11l4-7c1.6 0 2.5 1.2 2.2 2.7L12.6 10H19a1.5 1.5 0 0 1 1.5 1.8l-1.3 6.8A1.7 1.7 0 0 1 17.5 20H7",
  dislike: "M7 13V4H4v9zM7 13l4 7c1.6 0 2.5-1.2 2.2-2.7L12.6 14H19a1.5 1.5 0 0 0 1.5-1.8l-1.3-6.8A1.7 1.7 0 0 0 17.5 4H7",
  book: "M5 5.5A1.5 1.5 0 0 1 6.5 4H19v14H6.5A1.5 1.5 0 0 0 5 19.5zM5 19.5A1.5 1.5 0 0 0 6.5 21H19v-3M9 8h6",
  keyboard: "M3.5 7h17v10h-17zM7 10.5h.01M10.5 10.5h.01M14 10.5h.01M17 10.5h.01M8.5 13.8h7",
  play: "M8 5.5v13l10-6.5z",
  skip: "M6 6v12l8-6zM17.5 6v12",
  user: "M12 4a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM4.5 20c.8-3.5 3.8-5 7.5-5s6.7 1.5 7.5 5",
  leave: "M14 5H6v14h8M11 12h9M16.5 8.5L20 12l-3.5 3.5",
  warn: "M12 4.5L21 19.5H3zM12 10v4.5M12 17v.01",
  file: "M7 3.5h7l4.5 4.5v12.5H7zM13.5 4v4.5H18",
  clock: "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17zM12 8v4.5l3 2",
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", `icon icon-${name}`);
  const shape = document.createElementNS(SVG, "path");
  if (name === "stop") shape.setAttribute("class", "filled");
  shape.setAttribute("d", name === "stop" ? "M7 7h10v10H7z" : ICONS[name]);
  svg.append(shape);
  return svg;
}

/** A button with an icon only; its name is read aloud and shown as a tooltip. */
export function iconButton(name, label, onclick, attributes = {}) {
  return el("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...attributes }, icon(name));
}

/** Makes `current` show what `wanted` shows, touching only what differs, so selections and scroll positions stay. */
export function morph(current, wanted) {
  const before = [...current.childNodes];
  const after = [...wanted.childNodes];
  after.forEach((node, index) => {
    const old = before[index];
    if (!old) current.append(node);
    else if (!alike(old, node)) old.replaceWith(node);
    else if (node.nodeType !== Node.TEXT_NODE) morph(old, node);
    else if (node.data.startsWith(old.data)) old.appendData(node.data.slice(old.data.length));
    else old.data = node.data;
  });
  for (const old of before.slice(after.length)) old.remove();
}

function alike(a, b) {
  if (a.nodeType !== b.nodeType || a.nodeName !== b.nodeName) return false;
  if (a.nodeType === Node.TEXT_NODE) return true;
  if (a.attributes.length !== b.attributes.length) return false;
  return [...a.attributes].every(({ name, value }) => b.getAttribute(name) === value);
}

/** Copies text; browsers offer the clipboard API only on https and loopback, so there is the old way too. */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = el("textarea", { class: "visually-hidden", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** Hands the reader a file. */
export function saveFile(name, blob) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
