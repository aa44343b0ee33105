/**
 * Markdown within a paragraph -> DOM nodes, in one pass over the text.
 *
 * Time is linear in the text and depth is bounded, whatever a model writes. HTML stays text; links lead to http and
 * https only, anything else stays as it was written.
 */

import { el, isWeb, webLink } from "./dom.js";

const TAGS = { "**": "strong", __: "strong", "*": "em", _: "em", "~~": "del" };
const DEEPEST = 16;
const TOKEN = new RegExp(
  [
    /(?<escaped>\\[!-/:-@[-`{-~])/,
    /(?<ticks>`+)/,
    /!?\[(?<label>[^[\]]*(?:\[[^[\]]*\][^[\]]*)*)\]\(<?(?<target>[^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*)>?(?: "[^"]*")?\)/,
    /<(?<angled>https?:\/\/[^\s<>]+)>/,
    /(?<bare>https?:\/\/[^\s<>"'`]*[^\s<>"'`.,;:!?()[\]{}*_~])/,
    /(?<run>\*+|_+|~~)/,
    /(?<br><br ?\/?>|(?<= {2})\n)/,
  ].map((pattern) => pattern.source).join("|"),
  "gi",
);

/** The nodes of a text. Within a link there are no links. */
export function inline(text, linked = true) {
  const nest = new Nest();
  const code = new CodeSpans(text);
  let position = 0;
  for (const pattern = new RegExp(TOKEN); ; ) {
    pattern.lastIndex = position;
    const token = pattern.exec(text);
    if (!token) break;
    nest.add(text.slice(position, token.index));
    position = add(nest, token, code, linked);
  }
  nest.add(text.slice(position));
  return nest.end();
}

/** Add what a token stands for; returns where the text goes on. */
function add(nest, token, code, linked) {
  const [source] = token;
  const { escaped, ticks, label, target, angled, bare, run, br } = token.groups;
  const end = token.index + source.length;
  if (escaped) nest.add(source.slice(1));
  else if (ticks) return code.add(nest, end, ticks);
  else if (run) emphasize(nest, token);
  else if (br) nest.add(el("br"));
  else nest.add(linked ? link(angled ?? bare ?? target, label, source) : source);
  return end;
}

function link(target, label, source) {
  if (!isWeb(target)) return source;
  return webLink(target, label ? inline(label, false) : target);
}

/** A run of `*`, `_` or `~~`: it closes what it can, and opens with the rest. */
function emphasize(nest, token) {
  const { input, index, 0: run } = token;
  const before = input[index - 1] ?? " ";
  const after = input[index + run.length] ?? " ";
  const inWord = run[0] === "_" && /[\p{L}\p{N}]/u.test(before) && /[\p{L}\p{N}]/u.test(after);
  let left = run;
  if (/\S/.test(before) && !inWord) left = nest.close(left);
  if (/\S/.test(after) && !inWord && left.length <= 3) nest.open(left);
  else nest.add(left);
}

/** Nodes with the elements that are still open around them. */
class Nest {
  #levels = [{ mark: "", nodes: [] }];

  add(node) {
    if (node !== "") this.#levels.at(-1).nodes.push(node);
  }

  /** Open `***` as a `**` and a `*`, and so on. */
  open(run) {
    for (const mark of run.length === 3 ? [run.slice(0, 2), run[0]] : run ? [run] : []) {
      if (this.#levels.length < DEEPEST && mark in TAGS) this.#levels.push({ mark, nodes: [] });
      else this.add(mark);
    }
  }

  /** Close the innermost elements that the run fits; returns what is left of the run. */
  close(run) {
    for (let left = run; ; ) {
      const found = this.#levels.findLastIndex(({ mark }) => mark[0] === left[0] && mark.length <= left.length);
      if (!left || found < 1) return left;
      this.#flatten(found);
      const { mark, nodes } = this.#levels.pop();
      this.add(el(TAGS[mark], {}, nodes));
      left = left.slice(mark.length);
    }
  }

  end() {
    this.#flatten(0);
    return this.#levels[0].nodes;
  }

  /** What is open above a level was not meant as markup. */
  #flatten(level) {
    while (this.#levels.length > level + 1) {
      const { mark, nodes } = this.#levels.pop();
      for (const node of [mark, ...nodes]) this.add(node);
    }
  }
}

/** Finds the ends of code spans; a length of backticks that was not found once is not looked for again. */
class CodeSpans {
  #text;
  #missing = new Set();

  constructor(text) {
    this.#text = text;
  }

  /** Add the span that begins after `ticks`, or these as text; returns where the text goes on. */
  add(nest, start, ticks) {
    const end = this.#missing.has(ticks.length) ? -1 : this.#find(start, ticks.length);
    if (end < 0) {
      nest.add(ticks);
      return start;
    }
    const code = this.#text.slice(start, end).replaceAll("\n", " ");
    const padded = code.length > 2 && code.startsWith(" ") && code.endsWith(" ");
    nest.add(el("code", {}, padded ? code.slice(1, -1) : code));
    return end + ticks.length;
  }

  #find(start, length) {
    for (const run of this.#text.slice(start).matchAll(/`+/g)) {
      if (run[0].length === length) return start + run.index;
    }
    this.#missing.add(length);
    return -1;
  }
}
