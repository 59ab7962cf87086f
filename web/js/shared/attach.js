// Puts a drawn widget on a node. A text widget of the node holds what is drawn; nothing else is saved.

import { api } from "../../../../scripts/api.js";

const POLL_MS = 250;

export function valueOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name)?.value;
}

export function setWidget(node, name, value) {
  const widget = (node.widgets ?? []).find((one) => one.name === name);
  if (!widget || widget.value === value) return;
  widget.value = value;
  widget.callback?.(value);
}

/** Whether another node gives an input. */
export function isLinked(node, name) {
  return (node.inputs ?? []).some((input) => input.name === name && input.link != null);
}

/** Make room where a workflow was saved before there was a drawn widget. */
export function grow(node) {
  const [width, height] = node.computeSize();
  node.setSize([Math.max(440, width, node.size[0]), Math.max(height, node.size[1])]);
}

/**
 * @param node the node, just created
 * @param {object} how
 * @param {string} how.text the widget that holds what is drawn
 * @param {string} how.route name behind /wm_pipelines/ that reads it
 * @param {string} how.type type of the DOM widget
 * @param {number} how.height its least height
 * @param {() => object} how.asked the values that decide what is drawn, as the route takes them
 * @param {(write: (values: object) => void) => object} how.make the editor: element, show, say, setBackground, close
 */
export function attach(node, { text, route, type, height, asked, make }) {
  let seen = null;
  let question = 0;

  const editor = make((values) => {
    if (isLinked(node, text)) return;
    for (const [name, value] of Object.entries(values)) setWidget(node, name, value);
    seen = JSON.stringify(asked());
    node.graph?.setDirtyCanvas(true, true);
  });

  /** Ask the server what the widgets say, when that changed by another hand than the editor's. */
  async function look() {
    if (isLinked(node, text)) {
      if (seen !== "linked") editor.say(`${text} comes from another node: draw there, or take the link away`, true);
      seen = "linked";
      return;
    }
    const values = JSON.stringify(asked());
    if (values === seen) return;
    const fresh = seen === null;
    seen = values;
    const mine = ++question;
    const found = await ask(route, JSON.parse(values));
    if (mine !== question || seen !== values) return;
    if (found.error) editor.say(found.error, true);
    else editor.show(found, fresh);
  }

  // A poll sees typing, pasting, loading, undo and copies alike, and hangs on no hook of the front end.
  const timer = setInterval(() => {
    look().catch((error) => editor.say(String(error), true));
    editor.tick?.();
  }, POLL_MS);

  const widget = node.addDOMWidget("wm_editor", type, editor.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => height,
  });
  widget.serialize = false;

  const executed = node.onExecuted;
  node.onExecuted = function (output) {
    executed?.apply(this, arguments);
    const pictures = output?.wm_background ?? [];
    editor.setBackground?.(pictures.map((one) => api.apiURL(`/view?${new URLSearchParams(one)}`)));
  };
  const removed = node.onRemoved;
  node.onRemoved = function () {
    removed?.apply(this, arguments);
    clearInterval(timer);
    editor.close();
  };
  grow(node);
  return editor;
}

/** What the server answers: its JSON, with `error` where it can't read the question. */
export async function ask(route, values) {
  const answer = await api.fetchApi(`/wm_pipelines/${route}`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(values),
  });
  return answer.json().catch(() => ({ error: `the server answered with ${answer.status}` }));
}
