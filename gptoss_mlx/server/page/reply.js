/**
 * The events of a response -> the turn that it answers.
 *
 * A turn is plain data, as it is kept: `question`, `state` (running, done, cut, stopped or failed), `items` (the
 * response's, as far as they have come), `usage`, `seconds` (spent writing, without those that tools took) and `error`.
 */

import { Refusal } from "./api.js";

const GROWING = {
  "response.output_text.delta": (item, text) => (item.content = [{ text: textOf(item) + text }]),
  "response.reasoning_text.delta": (item, text) => (item.content = [{ text: textOf(item) + text }]),
  "response.code_interpreter_call_code.delta": (item, text) => (item.code += text),
  "response.mcp_call_arguments.delta": (item, text) => (item.arguments += text),
  "response.function_call_arguments.delta": (item, text) => (item.arguments += text),
};
const WORKING = [
  "response.code_interpreter_call.interpreting",
  "response.web_search_call.searching",
  "response.mcp_call_arguments.done",
];
const ENDS = { "response.completed": "done", "response.incomplete": "cut" };

export const newTurn = (question) => ({ question, state: "running", items: [], usage: null, seconds: 0, error: null });

/** The text of a message or of thoughts. */
export const textOf = (item) => item.content.map(({ text }) => text).join("");

/** Writes a response's events into a turn. */
export class Reply {
  #turn;
  #began = new Map();
  #last = null;

  constructor(turn) {
    this.#turn = turn;
  }

  /**
   * Take an event.
   *
   * @throws {Refusal} it tells that the response failed.
   */
  push(event, now = performance.now()) {
    const { type, output_index: index, item, response } = event;
    if (type === "response.failed") throw new Refusal(response.error.message);
    if (type === "response.output_item.added") this.#add(index, item, now);
    if (type === "response.output_item.done") this.#finish(index, item, now);
    if (type in GROWING) this.#grow(event, now);
    if (WORKING.includes(type)) this.#work(index);
    if (type in ENDS) Object.assign(this.#turn, { state: ENDS[type], usage: response.usage });
  }

  #add(index, item, now) {
    this.#turn.items[index] = item;
    this.#began.set(index, now);
  }

  #grow({ type, output_index: index, delta }, now) {
    if (this.#last !== null) this.#turn.seconds += (now - this.#last) / 1000;
    this.#last = now;
    GROWING[type](this.#turn.items[index], delta);
  }

  #work(index) {
    this.#turn.items[index].status = "working";
    this.#last = null;
  }

  #finish(index, item, now) {
    this.#turn.items[index] = { ...item, seconds: (now - this.#began.get(index)) / 1000 };
  }
}

/** The input that asks the last question of the turns. */
export function inputOf(turns) {
  return turns.flatMap(({ question, items }) => [{ role: "user", content: question }, ...items.flatMap(sent)]);
}

/** What the model reads again of an item: what was said, and calls with their results. */
function sent(item) {
  const { type, phase, code, outputs, server_label, name, output, error } = item;
  const isAnswered = output != null || error != null;
  if (type === "message" && textOf(item)) {
    return [{ type, role: "assistant", phase, content: [{ type: "output_text", text: textOf(item) }] }];
  }
  if (type === "code_interpreter_call" && outputs) {
    return [{ type, code, outputs: outputs.filter((each) => each.type === "logs") }];
  }
  if (type === "mcp_call" && isAnswered) return [{ type, server_label, name, arguments: item.arguments, output, error }];
  return [];
}
