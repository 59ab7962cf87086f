// Puts the trajectory editor on WM_Trajectory. The text widget holds what is drawn; nothing else is saved.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { TrajectoryEditor } from "./trajectory/editor.js";

const POLL_MS = 250;
const HEIGHT = 420;
const ALL = [
  "text", "format", "phrases", "num_frames", "box_width", "box_height", "canvas_width", "canvas_height", "speed",
  "outside",
];

/** The values that decide what the text says: of our own JSON the text alone. */
function asked(node) {
  const found = {};
  for (const widget of node.widgets ?? []) if (ALL.includes(widget.name)) found[widget.name] = widget.value;
  return found.format === "json" ? { text: found.text, format: "json", phrases: found.phrases } : found;
}

/** Whether another node gives the text. */
function isLinked(node) {
  return (node.inputs ?? []).some((input) => input.name === "text" && input.link != null);
}

function setWidget(node, name, value) {
  const widget = (node.widgets ?? []).find((one) => one.name === name);
  if (!widget || widget.value === value) return;
  widget.value = value;
  widget.callback?.(value);
}

function attach(node) {
  let seen = null;
  let question = 0;

  const editor = new TrajectoryEditor({
    frames: () => Number(node.widgets?.find((widget) => widget.name === "num_frames")?.value) || 0,
    write: (text) => {
      if (isLinked(node)) return;
      setWidget(node, "format", "json");
      setWidget(node, "phrases", "");
      setWidget(node, "text", text);
      seen = JSON.stringify(asked(node));
      node.graph?.setDirtyCanvas(true, true);
    },
    paste: (text) => setWidget(node, "text", text),
  });

  /** Ask the server what the widgets say, when that changed by another hand than the editor's. */
  async function look() {
    if (isLinked(node)) {
      if (seen !== "linked") editor.say("text comes from another node; draw there, or take the link away", true);
      seen = "linked";
      return;
    }
    const values = JSON.stringify(asked(node));
    if (values === seen) return;
    const fresh = seen === null;
    seen = values;
    const mine = ++question;
    const answer = await api.fetchApi("/wm_pipelines/trajectory", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: values,
    });
    const found = await answer.json().catch(() => ({ error: `the server answered with ${answer.status}` }));
    if (mine !== question || seen !== values) return;
    if (found.error) editor.say(found.error, true);
    else editor.show(found, fresh);
  }

  // A poll sees typing, pasting, loading, undo and copies alike, and hangs on no hook of the front end.
  const timer = setInterval(() => {
    look().catch((error) => editor.say(String(error), true));
    if (editor.shownFrames !== editor.frames) {
      editor.shownFrames = editor.frames;
      editor.goto(editor.frame);
    }
  }, POLL_MS);

  const widget = node.addDOMWidget("wm_editor", "WM_TRAJECTORY_EDITOR", editor.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => HEIGHT,
  });
  widget.serialize = false;

  const executed = node.onExecuted;
  node.onExecuted = function (output) {
    executed?.apply(this, arguments);
    const pictures = output?.wm_background ?? [];
    editor.setBackground(pictures.map((one) => api.apiURL(`/view?${new URLSearchParams(one)}`)));
  };
  const removed = node.onRemoved;
  node.onRemoved = function () {
    removed?.apply(this, arguments);
    clearInterval(timer);
    editor.close();
  };
  grow(node);
}

/** Make room where a workflow was saved before there was an editor. */
function grow(node) {
  const [width, height] = node.computeSize();
  node.setSize([Math.max(440, width, node.size[0]), Math.max(height, node.size[1])]);
}

app.registerExtension({
  name: "wm_pipelines.trajectory",
  nodeCreated(node) {
    if (node.comfyClass === "WM_Trajectory") attach(node);
  },
  loadedGraphNode(node) {
    if (node.comfyClass === "WM_Trajectory") grow(node);
  },
});
