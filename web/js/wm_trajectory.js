// The trajectory editor on WM_Trajectory.

import { app } from "../../../scripts/app.js";
import { attach, grow, setWidget, valueOf } from "./shared/attach.js";
import { TrajectoryEditor } from "./trajectory/editor.js";

const ALL = [
  "text", "format", "phrases", "num_frames", "box_width", "box_height", "canvas_width", "canvas_height", "speed",
  "outside",
];

/** The values that decide what the text says: of our own JSON the text alone. */
function asked(node) {
  const names = valueOf(node, "format") === "json" ? ["text", "format", "phrases"] : ALL;
  return Object.fromEntries(names.map((name) => [name, valueOf(node, name)]));
}

app.registerExtension({
  name: "wm_pipelines.trajectory",
  nodeCreated(node) {
    if (node.comfyClass !== "WM_Trajectory") return;
    attach(node, {
      text: "text",
      route: "trajectory",
      type: "WM_TRAJECTORY_EDITOR",
      height: 420,
      asked: () => asked(node),
      make: (write) => new TrajectoryEditor({
        frames: () => Number(valueOf(node, "num_frames")) || 0,
        write: (text) => write({ format: "json", phrases: "", text }),
        paste: (text) => setWidget(node, "text", text),
      }),
    });
  },
  loadedGraphNode(node) {
    if (node.comfyClass === "WM_Trajectory") grow(node);
  },
});
