/** The conversation: what is asked, stopped, asked again, and kept. */

import { Refusal, respond } from "./api.js";
import { inputOf, newTurn, Reply } from "./reply.js";
import { loadTurns, saveTurns } from "./store.js";
import { TurnView } from "./turn.js";

/**
 * A conversation in an element.
 *
 * @param options `request()`: the fields of a request beside its input; `edit(question)`: lets the last question be
 *   written anew; `changed()`: called when an answer begins or ends; `refused(status)`: called when the server refuses.
 */
export class Chat {
  #element;
  #options;
  #views;
  #stopping = null;
  #frame = 0;

  constructor(element, options) {
    this.#element = element;
    this.#options = options;
    this.#views = loadTurns().map((turn) => this.#viewOf(interrupted(turn)));
    element.append(...this.#views.map((view) => view.element));
    this.#show(this.#views);
  }

  get isRunning() {
    return this.#stopping !== null;
  }

  get isEmpty() {
    return this.#views.length === 0;
  }

  /** Ask, and show the answer as it comes. */
  async ask(question) {
    const view = this.#viewOf(newTurn(question));
    this.#views.push(view);
    this.#element.append(view.element);
    view.element.scrollIntoView({ block: "start" });
    await this.#answer(view.turn);
  }

  /** Ask the last question again, or another one in its place. */
  async retry(question = this.#views.at(-1).turn.question) {
    this.#views.pop().element.remove();
    await this.ask(question);
  }

  /** End the answer; what has come of it stays. */
  stop() {
    this.#stopping?.abort();
  }

  /** Forget everything. */
  clear() {
    this.stop();
    this.#stopping = null;
    this.#views = [];
    this.#element.replaceChildren();
    this.save();
  }

  save() {
    saveTurns(this.#turns);
  }

  get #turns() {
    return this.#views.map((view) => view.turn);
  }

  #viewOf(turn) {
    const retry = () => {
      this.retry();
      this.#views.at(-1).element.focus({ preventScroll: true }); // the button that was pressed is gone
    };
    return new TurnView(turn, { retry, edit: () => this.#options.edit(turn.question) });
  }

  async #answer(turn) {
    const stopping = (this.#stopping = new AbortController());
    this.#changed();
    try {
      await this.#read(turn, stopping.signal);
    } catch (error) {
      this.#end(turn, error);
    }
    if (this.#stopping === stopping) this.#stopping = null;
    this.#changed();
    if (turn.error) this.#options.refused(turn.error.status);
  }

  async #read(turn, signal) {
    const reply = new Reply(turn);
    for await (const event of respond({ ...this.#options.request(), input: inputOf(this.#turns) }, signal)) {
      reply.push(event);
      this.#frame ||= requestAnimationFrame(() => this.#show(this.#views.slice(-1)));
    }
    if (turn.state === "running") throw new Refusal("The connection ended before the answer did.");
  }

  #end(turn, error) {
    turn.state = error.name === "AbortError" ? "stopped" : "failed";
    closeItems(turn);
    if (turn.state === "stopped") return;
    if (!(error instanceof Refusal)) console.error(error);
    const { message, status = 0, retryAfter = 0 } = error;
    turn.error = { message, status, retryAt: Date.now() + retryAfter * 1000 };
  }

  #changed() {
    this.#show(this.#views);
    this.save();
    this.#options.changed();
  }

  /** Show some turns as they are now, and stay at the end if that is where the reader is. */
  #show(views) {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const page = document.documentElement;
    const isAtEnd = page.scrollHeight - page.clientHeight - page.scrollTop < 48;
    for (const view of views) view.show(view === this.#views.at(-1));
    if (isAtEnd) page.scrollTop = page.scrollHeight;
  }
}

/** A turn that a reload has interrupted. */
function interrupted(turn) {
  if (turn.state === "running") turn.state = "stopped";
  closeItems(turn);
  return turn;
}

function closeItems({ items }) {
  for (const item of items) {
    if (item.status === "in_progress" || item.status === "working") item.status = "incomplete";
  }
}
