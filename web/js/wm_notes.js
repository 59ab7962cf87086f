// What a node was warned of in its last run, in words on the node itself.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const LINE = 15;

function show(node, notes) {
  let widget = node.widgets?.find((one) => one.name === "wm_notes");
  if (!notes.length) {
    if (widget) node.removeWidget?.(widget);
    return;
  }
  if (!widget) {
    const element = document.createElement("div");
    element.className = "wm-notes";
    element.setAttribute("role", "status");
    Object.assign(element.style, {
      font: "11px sans-serif", color: "var(--input-text, #ddd)", overflow: "auto", padding: "3px 6px",
      borderLeft: "3px solid var(--warning-background, #d7a21e)", boxSizing: "border-box",
    });
    widget = node.addDOMWidget("wm_notes", "WM_NOTES", element, {
      serialize: false,
      getMinHeight: () => Math.min(8, 2 * element.childElementCount + 1) * LINE,
    });
    widget.serialize = false;
  }
  widget.element.replaceChildren(...notes.map((note) => {
    const line = document.createElement("div");
    line.textContent = note;
    return line;
  }));
  const [width, height] = node.computeSize();
  node.setSize([Math.max(width, node.size[0]), Math.max(height, node.size[1])]);
  node.graph?.setDirtyCanvas(true, true);
}

app.registerExtension({
  name: "wm_pipelines.notes",
  setup() {
    // What a run does not say again is of an older one.
    api.addEventListener("execution_start", () => {
      for (const node of app.graph?.nodes ?? []) if (node.comfyClass?.startsWith("WM_")) show(node, []);
    });
  },
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("WM_")) return;
    const executed = node.onExecuted;
    node.onExecuted = function (output) {
      executed?.apply(this, arguments);
      show(this, output?.wm_notes ?? []);
    };
  },
});
