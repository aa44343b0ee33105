/** The server's interface: `/v1/models`, `/v1/responses` and what it offers the page. */

import { loadKey } from "./store.js";

/** Why the server does not answer, in one line. */
export class Refusal extends Error {
  constructor(message, { status = 0, retryAfter = 0 } = {}) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** The names of the models. */
export async function listModels() {
  const { data } = await (await ask("v1/models")).json();
  return data.map(({ id }) => id);
}

/** The tools that run on the server, as requests name them. */
export async function listTools() {
  const { data } = await (await ask("page/tools")).json();
  return data;
}

/** The events of a response, until `signal` ends it. */
export async function* respond(body, signal) {
  const response = await ask("v1/responses", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, store: false }),
    signal,
  });
  for await (const data of frames(response.body)) {
    const event = JSON.parse(data);
    if (event.error) throw new Refusal(event.error.message);
    yield event;
  }
}

async function ask(path, options = {}) {
  const key = loadKey();
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await reached(fetch(path, { ...options, headers }));
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const told = await response.json().catch(() => null);
  const message = told?.error?.message ?? `The server answers ${response.status} ${response.statusText}.`;
  return new Refusal(message, {
    status: response.status,
    retryAfter: Number(response.headers.get("Retry-After")) || 0,
  });
}

/** The data of server-sent events. */
async function* frames(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { done, value } = await reached(reader.read());
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const line = block.split("\n").find((each) => each.startsWith("data: "));
      if (line) yield line.slice("data: ".length);
    }
  }
}

/** The result of something on the network, whose failures browsers tell as a TypeError. */
async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error instanceof TypeError) throw new Refusal("The connection to the server is lost.");
    throw error;
  }
}
