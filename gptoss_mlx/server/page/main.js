/** The page put together: the conversation, what is chosen, the field for questions, and the key. */

import { listModels, listTools } from "./api.js";
import { Chat } from "./chat.js";
import { el } from "./dom.js";
import { loadSettings, saveKey, saveSettings } from "./store.js";

const $ = (id) => document.getElementById(id);
const settings = { effort: "medium", model: "", instructions: "", tools: {}, theme: "", ...loadSettings() };
const composer = $("composer");
const question = $("question");
let offered = [];
let isEditing = false;
let afterKey = null;

const chat = new Chat($("turns"), { request, edit, changed: showState, refused });

/** The fields of a request that are chosen here. */
function request() {
  const tools = offered.filter((tool) => isOn(tool));
  return {
    model: settings.model || undefined,
    reasoning: { effort: settings.effort },
    ...(settings.instructions && { instructions: settings.instructions }),
    ...(tools.length && { tools, include: ["code_interpreter_call.outputs"] }),
  };
}

function choose(name, value) {
  settings[name] = value;
  saveSettings(settings);
}

// Asking

async function send() {
  const text = question.value.trim();
  if (!text || chat.isRunning) return;
  const asking = isEditing ? chat.retry(text) : chat.ask(text);
  cancelEditing();
  await asking;
}

function edit(text) {
  isEditing = true;
  question.value = text;
  showState();
  question.focus();
}

function cancelEditing() {
  isEditing = false;
  question.value = "";
  showState();
}

function showState() {
  $("send").hidden = chat.isRunning;
  $("stop").hidden = !chat.isRunning;
  $("editing").hidden = !isEditing;
  $("welcome").hidden = !chat.isEmpty;
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
question.addEventListener("input", () => (question.rows = Math.min(10, question.value.split("\n").length)));
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open], :popover-open")) return;
  if (chat.isRunning) chat.stop();
  else if (isEditing) cancelEditing();
});

$("stop").addEventListener("click", () => {
  chat.stop();
  question.focus();
});
$("cancel").addEventListener("click", cancelEditing);
$("new").addEventListener("click", () => {
  chat.clear();
  cancelEditing();
  question.focus();
});
addEventListener("pagehide", () => chat.save());

// What is chosen

for (const radio of composer.elements.effort) {
  radio.checked = radio.value === settings.effort;
  radio.addEventListener("change", () => choose("effort", radio.value));
}
$("instructions").value = settings.instructions;
$("instructions").addEventListener("input", (event) => choose("instructions", event.target.value.trim()));
$("model").addEventListener("change", (event) => choose("model", event.target.value));

/** Calls of MCP servers run unasked and may change things there, so they wait to be turned on. */
const isOn = (tool) => settings.tools[nameOf(tool)] ?? tool.type !== "mcp";

function nameOf({ type, server_label: label }) {
  return { web_search: "Browser", code_interpreter: "Python" }[type] ?? label;
}

function toolSwitch(tool) {
  const box = el("input", { type: "checkbox", checked: isOn(tool) });
  box.addEventListener("change", () => choose("tools", { ...settings.tools, [nameOf(tool)]: box.checked }));
  return el("label", {}, box, nameOf(tool));
}

// Light and dark

const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (settings.theme ? settings.theme === "dark" : systemIsDark.matches);

function showTheme() {
  document.documentElement.dataset.theme = settings.theme;
  $("theme").ariaPressed = String(isDark());
}

$("theme").addEventListener("click", () => {
  choose("theme", isDark() ? "light" : "dark");
  showTheme();
});
systemIsDark.addEventListener("change", showTheme);

// The server and its key

async function connect() {
  $("notice").hidden = true;
  try {
    const [models, tools] = await Promise.all([listModels(), listTools()]);
    showModels(models);
    offered = tools;
    $("tools").replaceChildren($("tools").firstElementChild, ...tools.map(toolSwitch));
    $("tools").hidden = tools.length === 0;
  } catch (error) {
    $("reason").textContent = error.message;
    $("notice").hidden = false;
    if (error.status === 401) askKey(connect);
  }
}

function showModels(models) {
  if (!models.includes(settings.model)) settings.model = models[0];
  $("model").replaceChildren(...models.map((name) => el("option", { selected: name === settings.model }, name)));
  $("model").hidden = models.length === 1;
  $("only").textContent = models.length === 1 ? models[0] : "";
}

function refused(status) {
  if (status === 401) askKey(() => connect().then(() => chat.retry()));
}

function askKey(then) {
  afterKey = then;
  $("key").showModal();
}

$("reconnect").addEventListener("click", connect);
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  saveKey($("key-value").value.trim());
  $("key-value").value = "";
  $("key").close();
  afterKey();
});

showTheme();
showState();
await connect();
question.focus();
