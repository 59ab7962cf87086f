"""WM_SceneGraph: JSON becomes a WM_SCENE_GRAPH."""

from typing import Any

from comfy_api.latest import io

from ._shared import routes
from ._shared.types import CATEGORY, SceneGraph, aliases

EXAMPLE = """{
  "nodes": [
    {"id": "a", "name": "cube", "attributes": ["red"]},
    {"id": "b", "name": "sphere", "attributes": ["blue"]}
  ],
  "edges": [{"subject": "a", "predicate": "left of", "object": "b"}]
}"""


class WM_SceneGraph(io.ComfyNode):
    """Reads a scene graph and shows the caption that it compiles to."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_SceneGraph",
            display_name="WM Scene Graph",
            category=f"{CATEGORY}/control",
            **aliases("layout, graph, regional prompt, relations"),
            description="Objects, their attributes and relations. Compiles to a caption, boxes and a depth order.",
            inputs=[
                io.String.Input(
                    "graph",
                    default=EXAMPLE,
                    multiline=True,
                    tooltip="JSON with nodes (id, name, attributes, optional box in fractions) and edges (subject, "
                    "predicate, object). Predicates: left of, right of, in front of, behind, above, below, on, in.",
                ),
            ],
            outputs=[
                SceneGraph.Output("scene_graph", tooltip="For the sampler."),
                io.String.Output("caption", tooltip="The caption that the graph compiles to."),
            ],
        )

    @classmethod
    def execute(cls, graph: str) -> io.NodeOutput:
        from wm_pipelines import SceneGraph as Graph

        parsed = Graph.from_json(graph)
        return io.NodeOutput(parsed, parsed.compile(64, 64).caption)


def laid_out(asked: dict[str, Any]) -> dict[str, Any]:
    """What the editor shows of the text field: `nodes` and `edges`, where each node comes to lie, and the caption.

    A graph that can be read but not laid out keeps its nodes and edges, and `problem` says why.
    """
    from wm_pipelines.runtime.readers import parse_json
    from wm_pipelines.text.scene_graph import PREDICATES, SceneGraph

    graph = SceneGraph.from_json(routes.text_of(asked, "graph"))
    written = parse_json(graph.to_json())
    found = {"nodes": written["nodes"], "edges": written["edges"], "predicates": list(PREDICATES)}
    try:
        compiled = graph.compile(64, 64)
    except ValueError as error:
        return {**found, "boxes": [], "order": [], "caption": "", "problem": str(error)}
    ids = [node.id for node in graph.nodes]
    order = [ids.index(id) for id in compiled.depth_order]
    return {**found, "boxes": [list(compiled.boxes[id]) for id in ids], "order": order, "caption": compiled.caption}


routes.ANSWERS["scene_graph"] = laid_out

NODES = (WM_SceneGraph,)
