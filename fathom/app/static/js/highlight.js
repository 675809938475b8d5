// Colours for code. The library and each language are fetched when first needed.

import { sanitize } from "./markdown.js";

const ALIASES = {
  "c++": "cpp", cc: "cpp", h: "c", hpp: "cpp", cs: "csharp", "c#": "csharp", golang: "go", html: "xml", svg: "xml", xhtml: "xml",
  js: "javascript", jsx: "javascript", mjs: "javascript", json5: "json", jsonc: "json", kt: "kotlin", tex: "latex", make: "makefile",
  md: "markdown", patch: "diff", py: "python", python3: "python", rb: "ruby", rs: "rust", sh: "bash", shell: "bash", zsh: "bash",
  console: "bash", toml: "ini", ts: "typescript", tsx: "typescript", yml: "yaml",
};
const LANGUAGES = new Set(
  `bash c cpp csharp css diff go ini java javascript json kotlin latex lua makefile markdown php python r ruby rust sql swift
  typescript xml yaml`.split(/\s+/),
);
// Beyond this colours cost more than they help.
const MAX_LENGTH = 100_000;

const vendor = (name) => import(`../vendor/highlight/${name}.js`);

async function highlighter(language) {
  const { default: library } = await vendor("core");
  if (!library.getLanguage(language)) library.registerLanguage(language, (await vendor(language)).default);
  return library;
}

/** Colours every code block below `element` whose language is known; text and height stay as they are. */
export async function highlight(element) {
  for (const code of element.querySelectorAll('code[class*="language-"]:not(.hljs)')) {
    const named = code.className.replace("language-", "");
    const language = ALIASES[named] ?? named;
    if (!LANGUAGES.has(language) || code.textContent.length > MAX_LENGTH) continue;
    const library = await highlighter(language);
    code.replaceChildren(sanitize(library.highlight(code.textContent, { language, ignoreIllegals: true }).value));
    code.classList.add("hljs");
  }
}
