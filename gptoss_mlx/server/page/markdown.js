/**
 * Markdown -> DOM nodes: the blocks that models write.
 *
 * Text is read line by line, so a text that is still being written shows as what it is so far: a fence without its end
 * is a code block already.
 */

import { copyButton, el } from "./dom.js";
import { inline } from "./inline.js";

const DEEPEST = 12;
const ITEM = /^([ \t]*)([-*+]|\d{1,9}[.)])(?:[ \t]+|$)/;

/** Shows a growing text in an element. Blocks that have not changed keep their nodes, and what is selected there. */
export class Markdown {
  #sources = [];

  constructor(element) {
    this.element = element;
  }

  show(text) {
    const blocks = [...split(text.replaceAll("\r\n", "\n").split("\n"))];
    const changed = blocks.findIndex(({ source }, position) => source !== this.#sources[position]);
    const same = changed < 0 ? blocks.length : changed;
    while (this.element.childNodes.length > same) this.element.lastChild.remove();
    for (const { build } of blocks.slice(same)) this.element.append(build(0));
    this.#sources = blocks.map(({ source }) => source);
  }
}

/** The blocks of some lines: their source, and what makes their node. */
function* split(lines) {
  for (let start = 0; start < lines.length; ) {
    if (isBlank(lines[start])) {
      start += 1;
      continue;
    }
    const { end, build } = recognize(lines, start) ?? paragraph(lines, start);
    yield { source: lines.slice(start, end).join("\n"), build };
    start = end;
  }
}

/** Fill an element with the blocks of some lines; too deep down they stay text. */
function fill(element, lines, depth) {
  if (depth > DEEPEST) element.append(lines.join("\n"));
  else for (const { build } of split(lines)) element.append(build(depth));
  return element;
}

const isBlank = (line) => line.trim() === "";

/** The block that begins at a line, unless that is a paragraph: where it ends, and what makes its node at a depth. */
function recognize(lines, start) {
  for (const kind of [fence, heading, rule, quote, list, table]) {
    const block = kind(lines, start);
    if (block) return block;
  }
  return null;
}

function paragraph(lines, start) {
  let end = start + 1;
  while (end < lines.length && !isBlank(lines[end]) && !interrupts(lines, end)) end += 1;
  return { end, build: () => el("p", {}, inline(lines.slice(start, end).join("\n").trim())) };
}

/** Whether a block begins in the middle of a paragraph; a number other than 1 there is the end of a sentence. */
function interrupts(lines, start) {
  const number = parseInt(lines[start], 10);
  return (Number.isNaN(number) || number === 1) && recognize(lines, start) !== null;
}

function fence(lines, start) {
  const opening = /^([ \t]*)(`{3,}|~{3,})([^`]*)$/.exec(lines[start]);
  if (!opening) return null;
  const [, indent, mark, info] = opening;
  const closes = (line) => line.trim().length >= mark.length && line.trim() === mark[0].repeat(line.trim().length);
  let end = start + 1;
  while (end < lines.length && !closes(lines[end])) end += 1;
  const code = () => lines.slice(start + 1, end).map((line) => dedent(line, columns(indent))).join("\n");
  return { end: Math.min(end + 1, lines.length), build: () => codeBlock(code(), info.trim().split(/\s/)[0]) };
}

/** Code with its language and a button that copies it. */
export function codeBlock(code, language = "") {
  const bar = el("div", { className: "bar" }, el("span", {}, language), copyButton(() => code));
  const text = el("pre", { tabIndex: 0 }, el("code", {}, code));
  return el("div", { className: "code" }, bar, text);
}

/** Headings of an answer stand below those of the page. */
function heading(lines, start) {
  const found = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/.exec(lines[start]);
  if (!found) return null;
  const [, marks, text = ""] = found;
  const tag = `h${Math.min(6, marks.length + 2)}`;
  return { end: start + 1, build: () => el(tag, {}, inline(text.replace(/(^|\s)#+\s*$/, "").trim())) };
}

function rule(lines, start) {
  const isRule = /^([-*_])\1{2,}$/.test(lines[start].replaceAll(" ", ""));
  return isRule ? { end: start + 1, build: () => el("hr") } : null;
}

function quote(lines, start) {
  const mark = /^ {0,3}> ?/;
  let end = start;
  while (end < lines.length && mark.test(lines[end])) end += 1;
  if (end === start) return null;
  const inner = () => lines.slice(start, end).map((line) => line.replace(mark, ""));
  return { end, build: (depth) => fill(el("blockquote"), inner(), depth + 1) };
}

function list(lines, start) {
  const first = ITEM.exec(lines[start]);
  if (!first) return null;
  const ordered = /\d/.test(first[2]);
  const items = [];
  let end = start;
  for (let item = first; item && /\d/.test(item[2]) === ordered; item = ITEM.exec(lines[end] ?? "")) {
    if (columns(item[1]) !== columns(first[1]) && items.length) break;
    const after = itemEnd(lines, end, columns(item[1]));
    items.push(itemLines(lines.slice(end, after), item));
    end = after;
  }
  return { end, build: (depth) => listOf(items, ordered, parseInt(first[2], 10), depth) };
}

/** Where an item ends: lines that are indented belong to it, and those that go on its paragraph. */
function itemEnd(lines, start, indent) {
  let end = start + 1;
  while (end < lines.length) {
    const text = nextText(lines, end);
    if (text === lines.length) return end;
    const goesOn = () => text === end && !ITEM.test(lines[text]) && !interrupts(lines, text);
    if (columns(lines[text]) <= indent && !goesOn()) return isSibling(lines[text], indent) ? text : end;
    end = text + 1;
  }
  return end;
}

const isSibling = (line, indent) => ITEM.test(line) && columns(line) === indent;

function nextText(lines, start) {
  let found = start;
  while (found < lines.length && isBlank(lines[found])) found += 1;
  return found;
}

/** An item's lines without its mark and its indentation. */
function itemLines([first, ...rest], [mark]) {
  const inner = rest.map((line) => dedent(line, columns(mark.replace(/\S/g, " "))));
  return [first.slice(mark.length), ...inner];
}

function listOf(items, ordered, number, depth) {
  const isTight = !items.some((lines) => lines.some(isBlank));
  const element = el(ordered ? "ol" : "ul", { className: isTight ? "tight" : "" });
  if (ordered && number !== 1) element.start = number;
  for (const lines of items) element.append(fill(el("li"), lines, depth + 1));
  return element;
}

/** How many columns of white space a line begins with; a tab has four. */
function columns(line) {
  const [space] = /^[ \t]*/.exec(line);
  return space.replaceAll("\t", "    ").length;
}

/** A line without up to `count` columns of its indentation. */
function dedent(line, count) {
  const [space] = /^[ \t]*/.exec(line);
  return space.replaceAll("\t", "    ").slice(Math.min(count, columns(line))) + line.slice(space.length);
}

function table(lines, start) {
  if (!lines[start].includes("|") || start + 1 >= lines.length) return null;
  const head = cells(lines[start]);
  const marks = cells(lines[start + 1]);
  if (marks.length !== head.length || !marks.every((mark) => /^:?-+:?$/.test(mark))) return null;
  let end = start + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  return { end, build: () => tableOf(head, marks.map(alignment), lines.slice(start + 2, end).map(cells)) };
}

/** A row's cells; a `|` after a backslash is text. */
function cells(line) {
  const row = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return row.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

const alignment = (mark) => (mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "end") : "start");

function tableOf(head, alignments, rows) {
  const row = (tag, texts) =>
    el("tr", {}, alignments.map((name, i) => el(tag, { className: name }, inline(texts[i] ?? ""))));
  const body = el("tbody", {}, rows.map((texts) => row("td", texts)));
  const element = el("table", {}, el("thead", {}, row("th", head)), body);
  return el("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": "Table" }, element);
}
