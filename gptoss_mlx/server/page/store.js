/** What the browser keeps. Where it may keep nothing (private windows, a full store), the page works without. */

const CONVERSATION = "gptoss-mlx.conversation";
const SETTINGS = "gptoss-mlx.settings";
const KEY = "gptoss-mlx.key";

/** The turns of the conversation, across reloads. */
export const loadTurns = () => read(CONVERSATION, Array.isArray) ?? [];
export const saveTurns = (turns) => write(CONVERSATION, turns);

/** What is chosen: effort, model, instructions, tools, theme. */
export const loadSettings = () => read(SETTINGS, (found) => typeof found === "object") ?? {};
export const saveSettings = (settings) => write(SETTINGS, settings);

/** The server's key, until the tab is closed. */
let key = attempt(() => sessionStorage.getItem(KEY));
export const loadKey = () => key;
export function saveKey(given) {
  key = given;
  attempt(() => sessionStorage.setItem(KEY, given));
}

function read(name, isRight) {
  const found = attempt(() => JSON.parse(localStorage.getItem(name)));
  return found !== null && isRight(found) ? found : null;
}

function write(name, value) {
  attempt(() => localStorage.setItem(name, JSON.stringify(value)));
}

function attempt(act) {
  try {
    return act() ?? null;
  } catch {
    return null;
  }
}
