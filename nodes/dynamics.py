"""WM_InferAction: two pictures to the action between them."""

from typing import Any

from comfy_api.latest import io

from ._shared.guards import check_pipeline
from ._shared.types import CATEGORY, Pipeline, aliases, one_picture

RESIZES = ("none", "pad", "crop")


class WM_InferAction(io.ComfyNode):
    """Says which action leads from one picture to another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_InferAction",
            display_name="WM Infer Action",
            category=f"{CATEGORY}/world",
            **aliases("inverse dynamics, describe change, caption"),
            description="Say in words which action leads from one picture to another, and how sure the model is.",
            inputs=[
                Pipeline.Input("pipeline", tooltip="A dynamics model from WM Load Pipeline."),
                io.Image.Input("source", tooltip="The picture before."),
                io.Image.Input("target", tooltip="The picture after, of the same size."),
                io.Int.Input("max_new_tokens", default=48, min=1, max=1024, tooltip="Where the sentence is cut off."),
                io.Combo.Input(
                    "resize",
                    options=list(RESIZES),
                    default="none",
                    tooltip="What to do with pictures of another size than the model's: refuse, pad or crop both.",
                ),
            ],
            outputs=[
                io.String.Output("action", tooltip="The likeliest action, in words."),
                io.Float.Output("score", tooltip="Mean log-probability of its words; 0 is certain."),
            ],
        )

    @classmethod
    def execute(cls, pipeline: Any, source: Any, target: Any, max_new_tokens: int, resize: str) -> io.NodeOutput:
        from wm_pipelines import DynamicsModelPipeline

        check_pipeline(pipeline, DynamicsModelPipeline, "load a dynamics model")
        before, after = one_picture(source, "source"), one_picture(target, "target")
        given = None if resize == "none" else resize
        out = pipeline.load(1, 0, 0)(before, after, max_new_tokens=max_new_tokens, resize=given)
        return io.NodeOutput(out.actions[0], float(out.scores[0]))


NODES = (WM_InferAction,)
