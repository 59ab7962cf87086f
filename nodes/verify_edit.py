"""WM_VerifyEdit: which picture of any editor shows an action."""

from typing import Any

from comfy_api.latest import io

from ._shared.guards import check_pipeline
from ._shared.ranking import ranked
from ._shared.types import CATEGORY, Pipeline, aliases, one_picture, pictures_of


class WM_VerifyEdit(io.ComfyNode):
    """Ranks the pictures of any editor by how clearly they show an action."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_VerifyEdit",
            display_name="WM Verify Edit",
            category=f"{CATEGORY}/measure",
            **aliases("verifier, best of n, rank, image edit"),
            description="Rank edited pictures from any editor in the graph by how clearly they show the action.",
            inputs=[
                Pipeline.Input("pipeline", tooltip="A dynamics model from WM Load Pipeline."),
                io.Image.Input("source", tooltip="One picture, before the edit."),
                io.Image.Input("candidates", tooltip="A batch of edited pictures of the same size."),
                io.String.Input(
                    "action", default="move the red cube to the left", multiline=True, tooltip="What was asked for."
                ),
                io.Float.Input(
                    "threshold",
                    default=0.001,
                    min=0.0,
                    max=3.0,
                    step=0.001,
                    tooltip="Squared colour difference beyond which one of 16 x 16 cells counts as changed.",
                ),
                io.Int.Input(
                    "min_changed",
                    default=1,
                    min=0,
                    max=256,
                    tooltip="Cells that must have changed; a candidate with fewer is a near copy.",
                ),
                io.Float.Input(
                    "min_margin",
                    default=0.0,
                    min=-100.0,
                    max=100.0,
                    step=0.05,
                    tooltip="By how much the best score must lie above that of the source itself to be accepted.",
                ),
            ],
            outputs=[
                io.Image.Output("images", tooltip="The candidates, the best one first."),
                io.String.Output("scores", tooltip="A line for each candidate in that order, with its margin."),
                io.Image.Output("heat_map", tooltip="Each candidate in grey, with what changed in red."),
                io.Boolean.Output("accepted", tooltip="Whether the best one changed enough and beats the copy."),
            ],
        )

    @classmethod
    def execute(
        cls,
        pipeline: Any,
        source: Any,
        candidates: Any,
        action: str,
        threshold: float,
        min_changed: int,
        min_margin: float,
    ) -> io.NodeOutput:
        import torch

        from wm_pipelines import DynamicsModelPipeline
        from wm_pipelines.dynamics.pictures import check_actions
        from wm_pipelines.world_model.editing import judged
        from wm_pipelines.world_model.selection import Gate

        check_pipeline(pipeline, DynamicsModelPipeline, "load a dynamics model")
        actions = check_actions(action, 1)
        before, pictures = one_picture(source, "source"), torch.stack(pictures_of(candidates, "candidates"))
        gate = Gate(threshold=threshold, min_changed=min_changed, min_margin=min_margin)
        judge = pipeline.load(len(pictures) + 1, 0, 0)
        return ranked(judged(before[None], pictures[None], actions, verifier=judge, gate=gate, output_type="pt"))


NODES = (WM_VerifyEdit,)
