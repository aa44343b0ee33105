// OpenAI's package for JavaScript: both interfaces, streamed, and its helper that runs tools.

import OpenAI from "openai";

import { Checks, city, holds, key, model, newAnswer, same, tool, toolSays, url, weather } from "./talk.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const spec = { name: tool, description: toolSays, parameters: city };
const tools = [{ type: "function", function: spec }];
const options = { model, temperature: 0, stream_options: { include_usage: true } };

function chat() {
  const messages = [];
  return async (question) => {
    const answer = newAnswer();
    messages.push({ role: "user", content: question });
    for (;;) {
      const said = await chatReply(messages, answer);
      messages.push(said);
      answer.text = said.content ?? "";
      if (!said.tool_calls?.length) return answer;
      for (const { id, function: called } of said.tool_calls) {
        const given = JSON.parse(called.arguments);
        answer.calls.push({ id, name: called.name, arguments: given });
        messages.push({ role: "tool", tool_call_id: id, content: weather[given.city] });
      }
    }
  };
}

async function chatReply(messages, answer) {
  const stream = client.chat.completions.stream({ ...options, messages, tools });
  answer.thoughts ??= "";
  for await (const chunk of stream) answer.thoughts += chunk.choices[0]?.delta.reasoning ?? "";
  const { choices, usage } = await stream.finalChatCompletion();
  answer.finishes.push(choices[0].finish_reason);
  answer.tokens.push([usage.prompt_tokens, usage.completion_tokens]);
  return choices[0].message;
}

function responses() {
  let previous;
  return async (question) => {
    const answer = newAnswer();
    let input = [{ role: "user", content: question }];
    while (input.length) {
      const made = await response(answer, { input, previous_response_id: previous });
      previous = made.id;
      input = results(made, answer);
    }
    return answer;
  };
}

async function response(answer, request) {
  const stream = client.responses.stream({ model, temperature: 0, tools: [{ type: "function", ...spec }], ...request });
  answer.thoughts ??= "";
  for await (const event of stream) if (event.type === "response.reasoning_text.delta") answer.thoughts += event.delta;
  const made = await stream.finalResponse();
  answer.text = made.output_text;
  answer.finishes.push(made.status);
  answer.tokens.push([made.usage.input_tokens, made.usage.output_tokens]);
  return made;
}

function results(made, answer) {
  const calls = made.output.filter((item) => item.type === "function_call");
  return calls.map(({ call_id, name, arguments: text }) => {
    const given = JSON.parse(text);
    answer.calls.push({ id: call_id, name, arguments: given });
    return { type: "function_call_output", call_id, output: weather[given.city] };
  });
}

// The package calls the function and goes on by itself.
async function runsTools() {
  const asked = [];
  const run = (given) => {
    asked.push(given);
    return weather[given.city];
  };
  const runner = client.chat.completions.runTools({
    ...options,
    stream: true,
    messages: [{ role: "user", content: "What is the weather in Oslo?" }],
    tools: [{ type: "function", function: { ...spec, function: run, parse: JSON.parse } }],
  });
  const said = await runner.finalContent();
  same("calls", asked, [{ city: "Oslo" }]);
  holds("the result in the answer", said.includes(weather.Oslo), said);
}

async function refusal() {
  const wrong = { model: "gpt-5", messages: [{ role: "user", content: "?" }] };
  const error = await client.chat.completions.create(wrong).catch((caught) => caught);
  same("status and code", [error.status, error.code], [404, "model_not_found"]);
}

const checks = new Checks("openai (JavaScript), chat");
await checks.conversations(chat, "tool_calls", "stop");
await checks.check("runTools", runsTools);
await checks.check("an unknown model", refusal);
checks.client = "openai (JavaScript), responses";
await checks.conversations(responses, "completed", "completed");
checks.exit();
