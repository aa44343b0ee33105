// OpenAI's Agents SDK for JavaScript, streamed, over both interfaces; and, streamed and not, the shapes that providers
// of gpt-oss must give it: thoughts in `reasoning` of Chat Completions, and in items and events of Responses.

import {
  Agent,
  OpenAIChatCompletionsModel,
  OpenAIResponsesModel,
  Runner,
  setTracingDisabled,
  tool as functionTool,
} from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";

import { Checks, holds, key, model, newAnswer, same, tool, toolSays, url, weather } from "./talk.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const models = {
  chat: new OpenAIChatCompletionsModel(client, model),
  responses: new OpenAIResponsesModel(client, model),
};
const getWeather = functionTool({
  name: tool,
  description: toolSays,
  parameters: z.object({ city: z.string() }),
  execute: ({ city }) => weather[city],
});

// A run of the agent: its result, and the server's own events where they are streamed.
async function run(api, input, stream) {
  const settings = { temperature: 0 };
  const agent = new Agent({ name: "weather", model: models[api], tools: [getWeather], modelSettings: settings });
  const result = await new Runner().run(agent, input, { stream });
  const events = [];
  if (stream) {
    for await (const event of result) {
      if (event.type === "raw_model_stream_event" && event.data.type === "model") events.push(event.data.event);
    }
    await result.completed;
  }
  return { result, events };
}

function conversation(api) {
  let history = [];
  return async (question) => {
    const { result, events } = await run(api, [...history, { role: "user", content: question }], true);
    history = result.history;
    const thoughts = events.map((event) => (api === "chat" ? event.choices[0]?.delta.reasoning : thought(event)) ?? "");
    const isCall = (item) => item.type === "function_call";
    const calls = result.rawResponses.flatMap((each) => each.output).filter(isCall);
    return {
      ...newAnswer(),
      text: result.finalOutput,
      calls: calls.map((call) => ({ id: call.callId, name: call.name, arguments: JSON.parse(call.arguments) })),
      finishes: result.rawResponses.map(({ output }) => (output.some(isCall) ? "call" : "answer")),
      tokens: result.rawResponses.map(({ usage }) => [usage.inputTokens, usage.outputTokens]),
      thoughts: thoughts.join(""),
    };
  };
}

const thought = (event) => (event.type === "response.reasoning_text.delta" ? event.delta : "");

// ---- Shapes

const isText = (value) => typeof value === "string" && value.length > 0;

async function called(api, stream) {
  const { result, events } = await run(api, "What is the weather in Oslo?", stream);
  const calls = result.newItems.filter((item) => item.type === "tool_call_item").map((item) => item.rawItem);
  same("calls", calls.map((call) => [call.type, call.name]), [["function_call", tool]]);
  same("arguments", JSON.parse(calls[0].arguments), { city: "Oslo" });
  return { result, events };
}

async function chatShapes() {
  const { result } = await called("chat", false);
  for (const { providerData } of result.rawResponses) {
    const { message } = providerData.choices[0];
    same("role", message.role, "assistant");
    holds("thoughts in reasoning", isText(message.reasoning), message);
    same("reasoning_content", message.reasoning_content, message.reasoning);
  }
}

async function chatEvents() {
  const { events } = await called("chat", true);
  const deltas = events.flatMap((event) => event.choices.map((choice) => choice.delta));
  holds("thoughts in a delta's reasoning", deltas.some((delta) => isText(delta.reasoning)), deltas);
  const firstThought = events.findIndex((event) => isText(event.choices[0]?.delta.reasoning));
  holds("choices in all events up to there", events.slice(0, firstThought).every((e) => e.choices.length), events);
}

async function responsesShapes() {
  const { result } = await called("responses", false);
  const items = result.rawResponses.flatMap(({ providerData }) => providerData.output);
  reasoningItems(items.filter((item) => item.type === "reasoning"), 2);
}

async function responsesEvents() {
  const { events } = await called("responses", true);
  const of = (type) => events.filter((event) => event.type === type);
  const deltas = of("response.reasoning_text.delta").map((event) => event.delta);
  const done = of("response.reasoning_text.done").map((event) => event.text);
  holds("deltas of thoughts", deltas.length > 2, deltas);
  same("thoughts", deltas.join(""), done.join(""));
  const ended = of("response.completed");
  same("responses that ended", ended.length, 2);
  reasoningItems(ended.flatMap(({ response }) => response.output).filter((item) => item.type === "reasoning"), 2);
}

function reasoningItems(items, count) {
  same("items of reasoning", items.length, count);
  for (const { content } of items) {
    holds("a list of parts", Array.isArray(content) && content.length > 0, content);
    holds("reasoning_text with text", content.every((part) => part.type === "reasoning_text" && isText(part.text)), content);
  }
}

setTracingDisabled(true);
const checks = new Checks("agents (JavaScript), shapes");
await checks.check("chat", chatShapes);
await checks.check("chat, streamed", chatEvents);
await checks.check("responses", responsesShapes);
await checks.check("responses, streamed", responsesEvents);
for (const api of ["chat", "responses"]) {
  checks.client = `agents (JavaScript), ${api}`;
  await checks.conversations(() => conversation(api), "call", "answer");
}
checks.exit();
