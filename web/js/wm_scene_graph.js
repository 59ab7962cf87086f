// The graph editor on WM_SceneGraph.

import { app } from "../../../scripts/app.js";
import { GraphEditor } from "./graph/editor.js";
import { attach, ask, grow, valueOf } from "./shared/attach.js";

app.registerExtension({
  name: "wm_pipelines.scene_graph",
  nodeCreated(node) {
    if (node.comfyClass !== "WM_SceneGraph") return;
    const asked = () => ({ graph: valueOf(node, "graph") });
    const editor = attach(node, {
      text: "graph",
      route: "scene_graph",
      type: "WM_GRAPH_EDITOR",
      height: 420,
      asked,
      make: (write) => new GraphEditor(async (graph) => {
        write({ graph });
        const found = await ask("scene_graph", { graph });
        if (valueOf(node, "graph") !== graph) return;
        if (found.error) editor.tell(found.error, true);
        else editor.show(found);
      }),
    });
  },
  loadedGraphNode(node) {
    if (node.comfyClass === "WM_SceneGraph") grow(node);
  },
});
