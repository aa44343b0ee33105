/** How a turn is shown: the question, the items of the reply, and a line with what it cost and what can be done. */

import { copyButton, el, quietButton } from "./dom.js";
import { seconds, viewOf } from "./items.js";
import { textOf } from "./reply.js";

/**
 * A turn on the page.
 *
 * @param actions `retry` and `edit`, which the last turn offers.
 */
export class TurnView {
  #actions;
  #views = [];
  #items = el("div", { className: "items" });
  #foot = el("div", { className: "foot" });
  #footed = "";

  constructor(turn, actions) {
    this.turn = turn;
    this.#actions = actions;
    const question = el("h2", { className: "question" }, turn.question);
    this.element = el("article", { tabIndex: -1 }, question, this.#items, this.#foot);
  }

  /** Show the turn as it is now. */
  show(isLast) {
    const { items, state } = this.turn;
    for (const [index, item] of items.entries()) this.#view(index, item).show(item);
    this.element.classList.toggle("waiting", state === "running" && items.length === 0);
    this.element.ariaBusy = String(state === "running");
    const footed = `${state} ${isLast}`;
    if (footed !== this.#footed) this.#foot.replaceChildren(...this.#footOf(isLast));
    this.#footed = footed;
  }

  #view(index, item) {
    if (!this.#views[index]) {
      this.#views[index] = viewOf(item);
      this.#items.append(this.#views[index].element);
    }
    return this.#views[index];
  }

  #footOf(isLast) {
    const { state, error } = this.turn;
    if (state === "running") return [];
    const parts = [this.#note(), this.#buttons(isLast)].filter(Boolean);
    return error ? [el("p", { className: "error", role: "alert" }, error.message), ...parts] : parts;
  }

  /** Why the answer is not whole, and what it cost. */
  #note() {
    const { state, usage } = this.turn;
    const states = { stopped: "Stopped", cut: "Cut off at the token limit" };
    const told = [states[state], ...(usage ? figures(this.turn) : [])].filter(Boolean);
    return told.length ? el("p", { className: "usage" }, told.join(" · ")) : null;
  }

  #buttons(isLast) {
    const answer = answerOf(this.turn);
    const buttons = answer ? [copyButton(() => answer)] : [];
    if (isLast) buttons.push(this.#retryButton(), quietButton("Edit", this.#actions.edit));
    return el("div", { className: "actions" }, buttons);
  }

  /** A button that waits as long as the server has asked for. */
  #retryButton() {
    const button = quietButton("Retry", this.#actions.retry);
    const until = this.turn.error?.retryAt ?? 0;
    const tick = () => {
      const left = Math.ceil((until - Date.now()) / 1000);
      button.disabled = left > 0;
      button.textContent = left > 0 ? `Retry in ${left} s` : "Retry";
      if (left > 0) setTimeout(tick, 250);
    };
    tick();
    return button;
  }
}

/** What people would copy: the answer without thoughts and preambles. */
function answerOf({ items }) {
  const said = items.filter(({ type, phase }) => type === "message" && phase !== "commentary");
  return said.map(textOf).join("\n\n");
}

function figures({ usage, seconds: spent }) {
  const { input_tokens: read, output_tokens: written } = usage;
  const cached = usage.input_tokens_details.cached_tokens;
  const thought = usage.output_tokens_details.reasoning_tokens;
  return [
    `${count(written)} tokens${thought ? ` (${count(thought)} thinking)` : ""}`,
    spent > 0.02 ? `${count(written / spent)} tokens/s` : "",
    `prompt ${count(read)}${cached ? ` (${count(cached)} cached)` : ""}`,
    spent > 0.02 ? seconds(spent) : "",
  ];
}

const count = (value) => new Intl.NumberFormat("en", { maximumFractionDigits: value < 100 ? 1 : 0 }).format(value);
