/** How the items of a reply are shown: thoughts, calls of tools, and what is said. */

import { el, isWeb, webLink } from "./dom.js";
import { codeBlock, Markdown } from "./markdown.js";
import { textOf } from "./reply.js";

/** What shows an item: `element`, and `show(item)` for each state of it. */
export function viewOf(item) {
  switch (item.type) {
    case "reasoning":
      return new Thoughts();
    case "message":
      return new Said();
    case "web_search_call":
      return new Search();
    default:
      return new Call();
  }
}

class Thoughts {
  element = el("details", { className: "thoughts" }, el("summary"), el("div", { className: "body" }));

  show(item) {
    const [summary, body] = this.element.children;
    const isOver = item.status !== "in_progress";
    const duration = item.seconds >= 0.1 ? ` for ${seconds(item.seconds)}` : "";
    summary.textContent = isOver ? `Thought${duration}` : "Thinking…";
    summary.classList.toggle("busy", !isOver);
    body.textContent = textOf(item);
  }
}

class Said {
  element = el("div", { className: "said" }, el("div", { className: "text" }));
  #markdown = new Markdown(this.element.firstChild);

  show(item) {
    const sources = sourcesOf(item);
    this.#markdown.show(sources.length ? withSources(item, sources) : textOf(item));
    this.element.classList.toggle("preamble", item.phase === "commentary");
    const isListed = this.element.children.length > 1;
    if (sources.length && !isListed) this.element.append(sourceList(sources));
  }
}

const notesOf = (item) => item.content.flatMap(({ annotations = [] }) => annotations);

/** The pages that an answer cites, each once. */
function sourcesOf(item) {
  const titles = new Map(notesOf(item).map(({ url, title }) => [url, title]));
  return [...titles].map(([url, title]) => ({ url, title: title || url }));
}

/** The answer with a number in place of each citation. Places count code points, which are not JavaScript's units. */
function withSources(item, sources) {
  const points = [...textOf(item)];
  for (const { url, start_index: start, end_index: end } of notesOf(item).reverse()) {
    const number = `[${sources.findIndex((source) => source.url === url) + 1}]`;
    points.splice(start, end - start, isWeb(url) ? `[${number}](<${url}>)` : number);
  }
  return points.join("");
}

function sourceList(sources) {
  const entries = sources.map(({ url, title }) => el("li", {}, isWeb(url) ? webLink(url, title) : title));
  return el("ol", { className: "sources", "aria-label": "Sources" }, entries);
}

class Search {
  element = el("p", { className: "call" });

  show({ action, status }) {
    const done = status === "completed";
    const texts = {
      search: [done ? "Searched" : "Searching", action.query],
      find_in_page: [done ? "Looked for" : "Looking for", action.pattern],
      open_page: [done ? "Opened" : "Opening", action.url ?? "a page"],
    };
    const [verb, what] = texts[action.type];
    this.element.replaceChildren(`${verb} `, el("q", {}, what), status === "failed" ? " – failed" : "");
    this.element.classList.toggle("busy", status === "in_progress" || status === "working");
  }
}

const STATES = { in_progress: "writing…", working: "running…", failed: "failed", incomplete: "not finished" };

/** A call with what was asked and what came back. */
class Call {
  element = el("details", { className: "call" }, el("summary"), el("div", { className: "body" }));
  #shown = "";

  show(item) {
    const [summary, body] = this.element.children;
    const state = STATES[item.status] ?? (item.error ? "failed" : "");
    summary.replaceChildren(nameOf(item), el("span", { className: "state" }, state));
    summary.classList.toggle("busy", item.status === "in_progress" || item.status === "working");
    const source = JSON.stringify(item);
    if (source !== this.#shown) body.replaceChildren(...askedOf(item), ...answeredOf(item));
    this.#shown = source;
  }
}

function nameOf(item) {
  if (item.type === "code_interpreter_call") return "Python";
  return item.server_label ? `${item.server_label}: ${item.name}` : `${item.name}: nobody here answers it`;
}

const askedOf = (item) =>
  item.type === "code_interpreter_call" ? [codeBlock(item.code, "python")] : [codeBlock(item.arguments, "json")];

function answeredOf({ outputs, output, error }) {
  const failure = error?.content?.map(({ text }) => text).join("\n");
  const texts = [output, failure].filter(Boolean).map((logs) => ({ type: "logs", logs }));
  return [...(outputs ?? []), ...texts].map((each) => (each.type === "image" ? picture(each.url) : printed(each.logs)));
}

const printed = (text) => el("pre", { className: "printed", tabIndex: 0 }, text);

const picture = (url) => el("img", { src: url, alt: "What the code drew" });

/** A duration for people. */
export const seconds = (value) => (value < 10 ? `${value.toFixed(1)} s` : `${Math.round(value)} s`);
