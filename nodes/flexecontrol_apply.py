"""WM_FlexEControlApply: a FlexEControl adapter controls a native MODEL, through its CONDITIONING."""

from typing import Any

from comfy_api.latest import io

from ._shared.guards import check_pipeline
from ._shared.types import CATEGORY, Conditions, Pipeline, aliases, rows_of


class WM_FlexEControlApply(io.ComfyNode):
    """Hangs conditions onto a prompt, for KSampler and whatever goes with it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_FlexEControlApply",
            display_name="WM FlexEControl Apply",
            category=f"{CATEGORY}/control",
            **aliases("controlnet apply, union, multi control, ksampler"),
            description="Control a native model by any number of conditions at once. Goes with KSampler, LoRA, other "
            "ControlNets, img2img and inpainting.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="A native model shaped as the base of the adapter; it is only looked at."
                ),
                io.Conditioning.Input("positive", tooltip="The prompt, from any node."),
                io.Conditioning.Input("negative", tooltip="What to stay away from."),
                Pipeline.Input("pipeline", tooltip="A FlexEControl pipeline from WM Load Pipeline: its adapter acts."),
                Conditions.Input(
                    "conditions", tooltip="From WM Condition or WM Stack Conditions. Phrases do not bind here."
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Weight of all conditions together, on top of the strength of each.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="From when the adapter acts, as in ControlNetApply.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Until when the adapter acts, as in ControlNetApply.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("positive", tooltip="The prompt under control."),
                io.Conditioning.Output("negative", tooltip="The negative prompt under control."),
                io.String.Output("report", tooltip="What acts, and which phrases are not bound."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        pipeline: Any,
        conditions: tuple,
        strength: float,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        from wm_pipelines import FlexEControlPipeline

        from ._native_control import NativeControl, check_fits

        check_pipeline(pipeline, FlexEControlPipeline, "load a FlexEControl checkpoint")
        check_fits(model, pipeline.pipeline.control)
        if not conditions:
            raise ValueError("conditions is empty; connect WM Condition")
        if len(rows_of(conditions)) > 1:
            raise ValueError(
                f"conditions holds a batch of {len(rows_of(conditions))} maps; this node takes one map for the whole "
                "latent batch, WM FlexEControl Sample one for each picture"
            )
        ours = NativeControl(pipeline, conditions, strength)
        ours.timestep_percent_range = (start_percent, end_percent)
        controlled = [_controlled(conditioning, ours) for conditioning in (positive, negative)]
        lines = [f"{one.type}, strength {one.strength:g}, {one.start:g} to {one.end:g}" for one in conditions]
        lines += [f"not bound: {one.phrase!r}" for one in conditions if one.phrase]
        return io.NodeOutput(*controlled, "\n".join(lines))


def _controlled(conditioning: list, control: Any) -> list:
    """Every entry with the control, behind the one that it had."""
    found = []
    for tokens, more in conditioning:
        own = control.copy().set_previous_controlnet(more.get("control"))
        found.append([tokens, {**more, "control": own, "control_apply_to_uncond": False}])
    return found


NODES = (WM_FlexEControlApply,)
