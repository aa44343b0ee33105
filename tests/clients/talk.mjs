// What the checks of all clients share; see talk.py, of which this is the counterpart.

import { readFileSync } from "node:fs";

const scenarios = JSON.parse(readFileSync(new URL("scenarios.json", import.meta.url), "utf8"));
export const { weather } = scenarios;
export const url = process.env.GPTOSS_URL ?? "http://127.0.0.1:8000";
export const model = process.env.GPTOSS_MODEL ?? "demo";
export const key = "none";
export const tool = "get_weather";
export const toolSays = "Get the weather in a city.";
export const city = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

// What a client makes of one turn, calls and their results included; thoughts are null where it does not show them.
export const newAnswer = () => ({ text: "", calls: [], finishes: [], tokens: [], thoughts: null });

export class Checks {
  failed = 0;

  constructor(client) {
    this.client = client;
  }

  // Says whether `act` throws nothing.
  async check(name, act) {
    let problem = "";
    try {
      await act();
    } catch (error) {
      problem = `: ${String(error?.stack ?? error).replaceAll(/\s+/g, " ").slice(0, 500)}`;
      this.failed += 1;
    }
    console.log(`${problem ? "FAILED" : "ok    "} ${this.client}: ${name}${problem}`);
  }

  // Holds the conversations; `begin` gives a function that goes on with one. Finish reasons are in the client's words.
  async conversations(begin, called, ended) {
    for (const turns of scenarios.conversations) {
      const name = turns.map(([question]) => question).join(" ");
      await this.check(name, () => hold(begin(), turns, called, ended));
    }
  }

  exit() {
    process.exitCode = this.failed ? 1 : 0;
  }
}

async function hold(ask, turns, called, ended) {
  const ids = new Set();
  for (const [question, expected, ...cities] of turns) {
    const answer = await ask(question);
    const calls = answer.calls.map((call) => [call.name, call.arguments]);
    same("calls", calls, cities.map((each) => [tool, { city: each }]));
    same("finish reasons", answer.finishes, [...cities.map(() => called), ended]);
    holds(`'${expected}' in the answer`, answer.text.includes(expected), answer.text);
    for (const { id } of answer.calls) {
      holds("an id that is new", id && !ids.has(id), id);
      ids.add(id);
    }
    holds("usage of each reply", answer.tokens.length === answer.finishes.length, answer.tokens);
    holds("tokens in each usage", answer.tokens.every(([read, wrote]) => read > 20 && wrote > 3), answer.tokens);
    holds("thoughts", answer.thoughts !== "", answer);
  }
}

export function same(what, found, expected) {
  holds(`${what}: ${JSON.stringify(expected)}`, JSON.stringify(found) === JSON.stringify(expected), found);
}

export function holds(what, condition, found) {
  if (!condition) throw new Error(`${what} expected, ${JSON.stringify(found)} found`);
}
