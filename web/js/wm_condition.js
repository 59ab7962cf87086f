// The region painter on WM_Condition.

import { app } from "../../../scripts/app.js";
import { RegionPainter } from "./region/painter.js";
import { attach, grow, valueOf } from "./shared/attach.js";

app.registerExtension({
  name: "wm_pipelines.region",
  nodeCreated(node) {
    if (node.comfyClass !== "WM_Condition") return;
    attach(node, {
      text: "shapes",
      route: "region",
      type: "WM_REGION_PAINTER",
      height: 260,
      asked: () => ({ shapes: valueOf(node, "shapes") ?? "" }),
      make: (write) => new RegionPainter((shapes) => write({ shapes })),
    });
  },
  loadedGraphNode(node) {
    if (node.comfyClass === "WM_Condition") grow(node);
  },
});
