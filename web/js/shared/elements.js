// What the drawn widgets are made of: elements, a style that follows the theme, and keys that stay inside.

const STYLE = `
.wm-editor { box-sizing: border-box; width: 100%; height: 100%; padding: 4px; display: flex; flex-direction: column;
  gap: 3px; color: var(--input-text, #ddd); background: var(--comfy-menu-bg, #353535); font: 11px sans-serif;
  border-radius: 4px; outline: none; overflow: hidden; }
.wm-editor { position: relative; }
.wm-editor .wm-keys { position: absolute; width: 1px; height: 1px; min-height: 0; padding: 0; border: 0; opacity: 0; }
.wm-editor:has(.wm-keys:focus) { box-shadow: 0 0 0 2px var(--p-primary-color, #4a90d9); }
.wm-editor .wm-bar { display: flex; flex-wrap: wrap; gap: 3px; align-items: center; flex: none; }
.wm-editor button, .wm-editor select, .wm-editor input { font: inherit; color: inherit; padding: 2px 6px;
  min-height: 22px; background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #4e4e4e);
  border-radius: 3px; box-sizing: border-box; }
.wm-editor button { cursor: pointer; }
.wm-editor button:hover { border-color: var(--input-text, #ddd); }
.wm-editor button[aria-pressed="true"] { background: var(--input-text, #ddd); color: var(--comfy-input-bg, #222); }
.wm-editor input[type="number"] { width: 44px; }
.wm-editor .wm-phrase { flex: 1; min-width: 90px; }
.wm-editor .wm-rows { display: flex; flex-direction: column; gap: 3px; flex: none; }
.wm-editor button:disabled { opacity: 0.4; cursor: default; }
.wm-editor canvas { display: block; touch-action: none; flex: none; }
.wm-editor .wm-stage { align-self: center; background: var(--comfy-input-bg, #222); cursor: crosshair;
  outline: 1px solid var(--border-color, #4e4e4e); }
.wm-editor .wm-status { flex: 1; min-width: 0; color: var(--descrip-text, #999); overflow-wrap: anywhere; }
.wm-editor .wm-status.wm-error { color: var(--error-text, #ff4444); }
`;

export function makeStyle() {
  if (document.getElementById("wm-editor-style")) return;
  const style = document.createElement("style");
  style.id = "wm-editor-style";
  style.textContent = STYLE;
  document.head.append(style);
}

/** An element with attributes and children. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** A button; `name` says what a sign means. */
export function button(label, title, act, name = label) {
  return make("button", { type: "button", title, "aria-label": name, onclick: act }, label);
}

/** Where keys go: front ends leave keys alone that are pressed in a field, so Ctrl+Z here is not the graph's too. */
export function keysInput(name) {
  return make("input", { class: "wm-keys", type: "text", readonly: "", "aria-label": name });
}

/** Keep what happens inside an element from the graph around it; a pointer never takes the keys from `keys`. */
export function enclose(root, keys) {
  for (const kind of ["pointerdown", "mousedown", "dblclick", "contextmenu", "keyup", "copy", "cut"]) {
    root.addEventListener(kind, (event) => event.stopPropagation());
  }
  root.addEventListener("mousedown", (event) => {
    if (event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement) return;
    event.preventDefault();
    keys.focus({ preventScroll: true });
  });
  root.addEventListener("change", (event) => {
    if (event.target instanceof HTMLSelectElement) keys.focus({ preventScroll: true });
  });
}

/** Whether an event belongs to a field that is typed in. */
export function isTyped(event, keys) {
  return event.target instanceof HTMLInputElement && event.target !== keys;
}

/** A number field that calls `act` with a whole number of at least `least`. */
export function number(value, title, least, act) {
  return make("input", {
    type: "number", value, title, "aria-label": title, min: least,
    onchange: (event) => {
      event.target.value = Math.max(least, Math.round(Number(event.target.value)) || least);
      act(Number(event.target.value));
    },
  });
}

/** What a theme gives a canvas. */
export function coloursOf(element) {
  const style = getComputedStyle(element);
  const of = (name, other) => style.getPropertyValue(name).trim() || other;
  return {
    text: of("--input-text", "#ddd"),
    dim: of("--descrip-text", "#999"),
    border: of("--border-color", "#4e4e4e"),
    warning: of("--error-text", "#ff4444"),
  };
}
