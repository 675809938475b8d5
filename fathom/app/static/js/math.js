// Formulas: \( \), \[ \], $$ $$ and careful $ $ in markdown, typeset as MathML by Temml, which is fetched on the first formula.

const INLINE = [
  { open: "\\(", close: "\\)" },
  { open: "\\[", close: "\\]", display: true },
  { open: "$$", close: "$$", display: true },
  { open: "$", close: "$", money: true },
];

/** A markdown-it plugin: formulas become elements that `typeset` fills; until then they show their source. */
export function mathRules(markdown) {
  markdown.inline.ruler.before("escape", "math", inlineMath);
  markdown.block.ruler.before("fence", "math", blockMath, { alt: ["paragraph", "list", "blockquote"] });
  markdown.renderer.rules.math = (tokens, index) => {
    const { content, markup, block } = tokens[index];
    const name = block ? "div" : "span";
    const source = markdown.utils.escapeHtml(content);
    return `<${name} class="math${markup ? " display" : ""}" dir="ltr">${source}</${name}>`;
  };
}

function inlineMath(state, silent) {
  const found = INLINE.find(({ open }) => state.src.startsWith(open, state.pos));
  if (!found) return false;
  const start = state.pos + found.open.length;
  const end = state.src.indexOf(found.close, start);
  if (end <= start || end > state.posMax) return false;
  const content = state.src.slice(start, end);
  if (found.money && !looksLikeMath(content, state.src[end + 1])) return false;
  if (!silent) {
    const token = state.push("math", "", 0);
    token.content = content.trim();
    token.markup = found.display ? "display" : "";
  }
  state.pos = end + found.close.length;
  return true;
}

// "$5 and $10" is money: a formula has no space inside its dollars and no digit after them (Pandoc's rule).
function looksLikeMath(content, following) {
  return !/^\s|\s$|\n\n/.test(content) && !/\d/.test(following ?? "");
}

function blockMath(state, startLine, endLine, silent) {
  const first = state.getLines(startLine, startLine + 1, state.blkIndent, false).trim();
  const found = INLINE.find(({ open, display }) => display && first.startsWith(open));
  if (!found) return false;
  for (let line = startLine; line < endLine; line += 1) {
    const text = state.getLines(startLine, line + 1, state.blkIndent, false).trim();
    if (line > startLine && state.isEmpty(line)) return false;
    if (text.length < found.open.length + found.close.length || !text.endsWith(found.close)) continue;
    if (silent) return true;
    const token = state.push("math", "", 0);
    Object.assign(token, { block: true, content: text.slice(2, -2).trim(), markup: "display", map: [startLine, line + 1] });
    state.line = line + 1;
    return true;
  }
  return false;
}

let loading = null;

function load() {
  // Temml comes as a classic script, not as a module.
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = new URL("../vendor/temml/temml.js", import.meta.url);
    script.onload = () => resolve(globalThis.temml);
    script.onerror = () => reject(new Error("temml.js did not load"));
    document.head.append(script);
  });
  return loading;
}

/** Typesets every formula below `element`; `sanitize` cleans what comes out. A formula with an error keeps its source. */
export async function typeset(element, sanitize) {
  const formulas = [...element.querySelectorAll(".math:not(.set)")];
  if (!formulas.length) return;
  const temml = await load();
  for (const formula of formulas) {
    const displayMode = formula.classList.contains("display");
    let html;
    try {
      html = temml.renderToString(formula.textContent, { displayMode, trust: false, maxExpand: 200, throwOnError: true });
    } catch (error) {
      if (!(error instanceof temml.ParseError)) throw error;
      continue;
    }
    // Parsing inline styles would trip the policy; what they hold is spacing that MathML does without.
    formula.replaceChildren(sanitize(html.replace(/ style="[^"]*"/g, "")));
    formula.classList.add("set");
  }
}
