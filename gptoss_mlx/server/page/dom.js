/** Small helpers over the DOM. Text becomes text nodes and nothing else; no helper parses HTML. */

/** An element. Properties with a dash in their name become attributes; children are nodes, texts, or lists of them. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  for (const child of children.flat()) element.append(child);
  return element;
}

/** Whether an address is one of the web; links lead nowhere else. */
export const isWeb = (url) => /^https?:\/\//i.test(url) && URL.canParse(url);

/** A link to an address of the web. */
export function webLink(url, ...children) {
  return el("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, ...children);
}

/** A button that looks like text. */
export function quietButton(label, act) {
  const button = el("button", { type: "button", className: "quiet" }, label);
  button.addEventListener("click", act);
  return button;
}

/** A button that copies what `text()` returns when it is pressed. */
export function copyButton(text) {
  const button = quietButton("Copy", async () => {
    button.textContent = (await copy(text())) ? "Copied" : "Cannot copy";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}

/** Whether the text is in the clipboard now. Browsers give pages of other machines without TLS only the old way. */
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
  const focused = document.activeElement;
  const area = el("textarea", { value: text, className: "unseen" });
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return copied;
}
