// Markdown to safe DOM. Three walls stand between a model's words and the page: the renderer takes no raw HTML and makes
// no images, DOMPurify drops whatever is not on the lists below, and the page's Content-Security-Policy runs nothing inline.

import MarkdownIt from "../vendor/markdown-it/markdown-it.mjs";
import DOMPurify from "../vendor/dompurify/purify.mjs";
import { mathRules } from "./math.js";

const TAGS = `a blockquote br button code del div em h1 h2 h3 h4 h5 h6 hr li ol p pre s span strong table tbody td th thead tr ul
  math annotation maction menclose merror mfenced mfrac mi mmultiscripts mn mo mover mpadded mphantom mprescripts mroot mrow
  ms mspace msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder munderover semantics none`.split(/\s+/);
const ATTRIBUTES = `class dir href rel target title start lang data-host tabindex
  accent accentunder columnalign columnlines columnspacing displaystyle display fence form height largeop linethickness
  lspace mathcolor mathvariant maxsize minsize movablelimits notation rowalign rowlines rowspacing rspace scriptlevel
  separator stretchy symmetric voffset width xmlns encoding`.split(/\s+/);

/** A DocumentFragment of `html` that holds only what the lists allow. The one place where text becomes markup. */
export function sanitize(html) {
  return DOMPurify.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    // Only an address is judged as an address.
    ADD_URI_SAFE_ATTR: ATTRIBUTES.filter((name) => name !== "href"),
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    RETURN_DOM_FRAGMENT: true,
  });
}

const markdown = new MarkdownIt({ html: false, linkify: true, breaks: false });
markdown.use(mathRules);
// Only whole addresses: a relative link of a model's making could only lead to a page of this server.
markdown.validateLink = (url) => /^(https?:\/\/|mailto:)/i.test(url.trim());
// "e.g. readme.md" is no address; what is one says http.
markdown.linkify.set({ fuzzyLink: false, fuzzyEmail: false });

const rules = markdown.renderer.rules;
const escape = markdown.utils.escapeHtml;

function hostOf(href) {
  try {
    return new URL(href).host;
  } catch {
    return "";
  }
}

// A link says where it leads unless its own words do; it tells the other side nothing about this page.
rules.link_open = (tokens, index, options, env, self) => {
  const token = tokens[index];
  const host = hostOf(token.attrGet("href"));
  token.attrSet("target", "_blank");
  token.attrSet("rel", "noopener noreferrer nofollow");
  const words = tokens[index + 1]?.content ?? "";
  if (host && token.markup !== "linkify" && token.markup !== "autolink" && !words.startsWith(token.attrGet("href"))) token.attrSet("data-host", host);
  return self.renderToken(tokens, index, options);
};

// A picture would tell its server who reads what, so it becomes a link to be followed on purpose.
rules.image = (tokens, index) => {
  const href = tokens[index].attrGet("src");
  const host = escape(hostOf(href));
  const words = escape(tokens[index].content || href);
  return `<a href="${escape(href)}" target="_blank" rel="noopener noreferrer nofollow" data-host="${host}">🖼 ${words}</a>`;
};

rules.fence = rules.code_block = (tokens, index) => {
  const language = tokens[index].info.trim().split(/\s+/)[0].toLowerCase().replace(/[^a-z0-9+#_.-]/g, "");
  const code = escape(tokens[index].content);
  return `<div class="code" dir="ltr"><div class="code-head"><span class="code-language">${language}</span></div><pre tabindex="0"><code${
    language ? ` class="language-${language}"` : ""
  }>${code}</code></pre></div>`;
};

rules.table_open = () => '<div class="table-scroll" dir="auto" tabindex="0"><table>';
rules.table_close = () => "</table></div>";

// Each block finds its own direction, so an Arabic answer reads right in an English interface, and the reverse.
const DIRECTED = new Set(["paragraph_open", "heading_open", "bullet_list_open", "ordered_list_open", "blockquote_open", "th_open", "td_open"]);
markdown.core.ruler.push("presentation", (state) => {
  for (const token of state.tokens) {
    if (DIRECTED.has(token.type)) token.attrSet("dir", "auto");
    // The policy forbids style attributes, which the table rule makes for alignment.
    const align = token.attrGet("style")?.match(/text-align:(\w+)/)?.[1];
    if (align) {
      token.attrs = token.attrs.filter(([name]) => name !== "style");
      token.attrJoin("class", `align-${align}`);
    }
  }
});

/** Safe DOM of a whole markdown text. */
export function render(text) {
  return sanitize(markdown.render(text));
}

/**
 * The offset at which the last top-level block of `text` begins. A later line can change that block, never an earlier one
 * (CommonMark 0.31, section 3), save for link definitions, which `hasDefinitions` finds. A line that is not ended yet does
 * not count: "2" after a list is a paragraph until it turns out to be "2. …".
 */
export function lastBlockStart(text) {
  const tokens = [];
  const ended = text.slice(0, text.lastIndexOf("\n") + 1).replace(/\r/g, " ");
  markdown.block.parse(ended, markdown, {}, tokens);
  const line = tokens.filter((token) => token.level === 0 && token.map && token.nesting >= 0).at(-1)?.map[0] ?? 0;
  let offset = 0;
  for (let passed = 0; passed < line; passed += 1) offset = text.indexOf("\n", offset) + 1;
  return offset;
}

export function hasDefinitions(text) {
  return /^ {0,3}\[[^\]\n]+\]:/m.test(text);
}

/** A growing text without what would flash: marks still open at its end are closed, a last line of only marks waits. */
export function settle(text) {
  if (/^\s*(```|~~~)/m.test(text)) return text;
  const shown = text.replace(/\n[ \t]*[-=*+#]+[ \t]*$/, "").replace(/\[(c(i(t(a(t(i(o(n(:\d*)?)?)?)?)?)?)?)?)?$/, "");
  const open = shown.slice(shown.lastIndexOf("\n\n") + 1).replace(/`[^`\n]+`/g, "").replace(/\\./g, "");
  if (open.includes("`")) return shown.endsWith("`") ? shown.replace(/`+$/, "") : `${shown}\``;
  if (open.endsWith("*")) return shown.replace(/\*+$/, "");
  return (open.match(/\*\*/g) ?? []).length % 2 ? `${shown.trimEnd()}**` : shown;
}
