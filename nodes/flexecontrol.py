"""WM_FlexEControlSample: prompt, conditions and scene graph become pictures."""

from typing import Any

from comfy_api.latest import io

from ._shared.guards import check_pipeline
from ._shared.types import (
    ADVANCED,
    CATEGORY,
    Conditions,
    Pipeline,
    SceneGraph,
    aliases,
    one_picture,
    rows_of,
    to_image,
)

BINDINGS = ("attention", "none")
ON_CONFLICT = ("warn", "error", "ignore")


class WM_FlexEControlSample(io.ComfyNode):
    """Samples pictures that obey several conditions at once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_FlexEControlSample",
            display_name="WM FlexEControl Sample",
            category=f"{CATEGORY}/control",
            **aliases("controlnet, ksampler, multi control, union"),
            description="Make pictures from a prompt under any number of conditions, also several of one type, each "
            "bound to its phrase.",
            inputs=[
                Pipeline.Input("pipeline", tooltip="A FlexEControl pipeline from WM Load Pipeline."),
                io.String.Input(
                    "prompt",
                    default="a red cube left of a blue sphere",
                    multiline=True,
                    tooltip="What to show. May stay empty when a scene graph is given: its caption is used.",
                ),
                io.String.Input("negative_prompt", default="", tooltip="What to stay away from."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="Start of the noise; the same seed gives the same noise on every device.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=500,
                    tooltip="Sampling steps; more take longer. 0 takes the checkpoint's own.",
                ),
                io.Float.Input(
                    "guidance_scale",
                    default=-1.0,
                    min=-1.0,
                    max=30.0,
                    step=0.1,
                    tooltip="How strongly the prompt pulls; 1 and below turn guidance off. -1 takes the checkpoint's.",
                ),
                io.Int.Input("width", default=0, min=0, max=4096, step=64, tooltip="Pixels; 0 takes the model's own."),
                io.Int.Input(
                    "height", default=0, min=0, max=4096, step=64, tooltip="Pixels; 0 takes the model's own."
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="How many pictures to make at once; with a batch of maps, of each map.",
                ),
                io.Float.Input(
                    "control_scale",
                    **ADVANCED,
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="Weight of all conditions together, on top of the strength of each.",
                ),
                io.Combo.Input(
                    "binding",
                    **ADVANCED,
                    options=list(BINDINGS),
                    default="attention",
                    tooltip="'attention' keeps each phrase inside its region; 'none' leaves the phrases free.",
                ),
                io.Combo.Input(
                    "on_conflict",
                    **ADVANCED,
                    options=list(ON_CONFLICT),
                    default="warn",
                    tooltip="What to do when conditions, phrases or graph disagree: report it, stop, or don't look.",
                ),
                Conditions.Input("conditions", optional=True, tooltip="From WM Condition or WM Stack Conditions."),
                SceneGraph.Input("scene_graph", optional=True, tooltip="From WM Scene Graph."),
                io.Image.Input(
                    "global_image",
                    optional=True,
                    tooltip="A picture whose content to follow; needs a checkpoint with a global adapter.",
                ),
            ],
            outputs=[
                io.Image.Output("images", tooltip="The pictures."),
                io.Image.Output(
                    "attention", tooltip="Where each phrase was attended, over its picture; without phrases, pictures."
                ),
                io.String.Output("report", tooltip="Conflicts, what will win and why, and what each overlay shows."),
            ],
        )

    @classmethod
    def execute(
        cls,
        pipeline: Any,
        prompt: str,
        negative_prompt: str,
        seed: int,
        steps: int,
        guidance_scale: float,
        width: int,
        height: int,
        batch_size: int,
        control_scale: float,
        binding: str,
        on_conflict: str,
        conditions: tuple = (),
        scene_graph: Any = None,
        global_image: Any = None,
    ) -> io.NodeOutput:
        import torch

        from wm_pipelines import FlexEControlPipeline
        from wm_pipelines.flexecontrol.overlay import attention_overlays

        from ._shared.progress import StepReporter

        check_pipeline(pipeline, FlexEControlPipeline, "load a FlexEControl checkpoint")
        prompt, rows = prompt.strip(), rows_of(conditions or ())
        each = len(rows) if len(rows) > 1 else None  # a prompt for each map of a batch
        result = pipeline.load(batch_size * len(rows), height, width)(
            prompt=None if scene_graph is not None and not prompt else [prompt] * each if each else prompt,
            negative_prompt=[negative_prompt] * each if each else negative_prompt,
            conditions=rows if each else rows[0] or None,
            scene_graph=[scene_graph] * each if each and scene_graph is not None else scene_graph,
            global_image=None if global_image is None else one_picture(global_image, "global_image"),
            height=height or None,
            width=width or None,
            num_inference_steps=steps or None,
            guidance_scale=None if guidance_scale < 0 else guidance_scale,
            num_images_per_prompt=batch_size,
            controlnet_conditioning_scale=control_scale,
            binding=binding,
            on_conflict=on_conflict,
            # On the CPU, so that a seed means the same on every device.
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="pt",
            output_attention=True,
            callback_on_step_end=StepReporter(),
        )
        overlays, labels = attention_overlays(result.images, result.attention_maps)
        lines = [f"{conflict.kind}: {conflict.message}" for conflict in result.conflicts or []] or ["no conflict"]
        lines += [f"attention {index + 1} = {label}" for index, label in enumerate(labels)]
        return io.NodeOutput(to_image(result.images), to_image(overlays), "\n".join(lines))


NODES = (WM_FlexEControlSample,)
