"""WM_GraphQA and WM_ParseText: questions about a picture, answered along a graph, and a text read as one."""

from typing import Any

from comfy_api.latest import io

from ._shared.guards import check_pipeline
from ._shared.types import CATEGORY, Pipeline, SceneGraph, aliases, one_picture, pil_image

REGIONS = ("as recorded", "full", "knn", "iou")


class WM_GraphQA(io.ComfyNode):
    """Answers a question about a picture along a graph, beside the same model without it and with a random one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_GraphQA",
            display_name="WM Graph QA",
            category=f"{CATEGORY}/match",
            **aliases("vqa, question, answer, scene graph"),
            description="Answer a question about a picture and a text with attention that follows a graph, and see "
            "whether the graph helped.",
            inputs=[
                Pipeline.Input("pipeline", tooltip="A graph transformer on ViLT, from WM Load Pipeline."),
                io.Image.Input("image", tooltip="One picture, of any size."),
                io.String.Input(
                    "question",
                    default="what colour is the cube?",
                    multiline=True,
                    tooltip="One question about the picture, or about the picture and the context.",
                ),
                io.String.Input(
                    "context",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Sentences that are true beside the picture. Empty: the question alone.",
                ),
                SceneGraph.Input(
                    "scene_graph",
                    optional=True,
                    tooltip="From WM Parse Text or WM Scene Graph; without one, question and context are parsed.",
                ),
                io.Combo.Input(
                    "regions",
                    options=list(REGIONS),
                    default="as recorded",
                    optional=True,
                    tooltip="Which parts of the picture attend to each other: all, the nearest, those that overlap.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    optional=True,
                    tooltip="Draws the random graph of equal density that the answer is compared with.",
                ),
                io.Int.Input(
                    "top_k", default=5, min=1, max=100, optional=True, tooltip="How many answers the list has."
                ),
            ],
            outputs=[
                io.String.Output("answer", tooltip="The likeliest answer along the graph."),
                io.String.Output(
                    "ranked",
                    tooltip="An answer on each line: its probability along the graph, without it, with a random one.",
                ),
                io.Image.Output("attention", tooltip="Where the answer's token looked, red is most."),
                io.Image.Output("graph", tooltip="The graph over text and picture, and the bias made of it."),
            ],
        )

    @classmethod
    def execute(
        cls,
        pipeline: Any,
        image: Any,
        question: str,
        context: str = "",
        scene_graph: Any = None,
        regions: str = "as recorded",
        seed: int = 0,
        top_k: int = 5,
    ) -> io.NodeOutput:
        import warnings

        from wm_pipelines import GraphTransformerPipeline
        from wm_pipelines.graph_transformer.compare import answer_rows, answer_three_ways

        check_pipeline(pipeline, GraphTransformerPipeline, "load a graph transformer")
        picture = one_picture(image, "image")
        loaded = pipeline.load(1, 0, 0)
        given = {
            "context": context if context.strip() else None,
            "graph": "auto" if scene_graph is None else scene_graph,
            "regions": None if regions == "as recorded" else regions,
        }
        with warnings.catch_warnings(action="ignore"):  # the list says it
            outputs = answer_three_ways(loaded, picture, question, seed=seed, **given)
            bias = loaded.compile(picture, question, **given)
        result = outputs["graph"]
        lines = [
            f"{row['answer']}: {row['graph']:.3f}, without {row['without']:.3f}, random {row['random']:.3f}"
            for row in answer_rows(outputs, loaded.answers, 0, top_k)
        ]
        lines += ["the graph is empty: all three see the padding mask alone"] if result.empty else []
        overlay = result.attentions[0].overlay(picture)
        return io.NodeOutput(result.answers[0], "\n".join(lines), pil_image(overlay), pil_image(bias.plot(0, picture)))


class WM_ParseText(io.ComfyNode):
    """Reads English sentences into a scene graph, by rules, and draws what was read."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_ParseText",
            display_name="WM Parse Text",
            category=f"{CATEGORY}/control",
            **aliases("scene graph, parser, caption"),
            description="Read sentences into a scene graph: things, attributes, places. Runs offline and needs no "
            "model.",
            inputs=[
                io.String.Input(
                    "text",
                    default="a red cube left of a blue sphere",
                    multiline=True,
                    tooltip="English sentences, for example a caption, or the context of a question.",
                ),
            ],
            outputs=[
                SceneGraph.Output("scene_graph", tooltip="For WM Graph QA, or the sampler."),
                io.Image.Output("preview", tooltip="Phrases in their order, and what ties them, as arcs."),
                io.String.Output("report", tooltip="What was read, and what a scene graph can't hold."),
            ],
        )

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        from wm_pipelines.graph_transformer.drawing import draw_graph
        from wm_pipelines.graph_transformer.parsing import text_graph
        from wm_pipelines.graph_transformer.scene_graphs import scene_graph_of
        from wm_pipelines.text.parser import parse

        scene, left = scene_graph_of(parse(text))
        things = [" ".join((*node.attributes, node.name)) for node in scene.nodes]
        lines = [f"things: {', '.join(things) or 'none'}", *map(str, scene.edges)]
        lines += [f"not in the scene graph: {said}" for said in left]
        return io.NodeOutput(scene, pil_image(draw_graph(text_graph(text), text)), "\n".join(lines))


NODES = (WM_GraphQA, WM_ParseText)
