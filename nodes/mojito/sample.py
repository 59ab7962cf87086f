"""WM_MojitoSample: prompt and trajectory become a video."""

from typing import Any

from comfy_api.latest import InputImpl, Types, io

from .._shared.guards import check_pipeline, outside_inference_mode
from .._shared.types import ADVANCED, CATEGORY, Pipeline, aliases, lines_of, to_image
from ._sockets import MotionReport, Trajectory, marks_of

OWN = -1.0
FRAMES = (
    "Frames of the video. 0 takes the trajectory's, and without one the model's own. A trajectory of another length "
    "is resampled, and the report says so."
)
USUAL = 16  # frames to make room for where nothing says how many


class WM_MojitoSample(io.ComfyNode):
    """Samples a video whose objects follow a trajectory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        size = {"default": 0, "min": 0, "max": 4096, "step": 32}
        return io.Schema(
            node_id="WM_MojitoSample",
            display_name="WM Mojito Sample",
            category=f"{CATEGORY}/video",
            **aliases("animatediff, text to video, motion control, trajectory"),
            description="Make a video whose objects follow a trajectory, with a dial for how much moves.",
            inputs=[
                Pipeline.Input("pipeline", tooltip="A Mojito pipeline from WM Load Pipeline."),
                io.String.Input(
                    "prompt",
                    default="a red cube moving right",
                    multiline=True,
                    tooltip="What to show; it must hold the phrases of the trajectory.",
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
                    default=OWN,
                    min=OWN,
                    max=30.0,
                    step=0.1,
                    tooltip="How strongly the prompt pulls; 0 to 1 turn that off. -1 takes the checkpoint's own.",
                ),
                io.Int.Input("width", **size, tooltip="Pixels; 0 takes the model's own."),
                io.Int.Input("height", **size, tooltip="Pixels; 0 takes the model's own."),
                io.Int.Input("num_frames", default=16, min=0, max=1024, tooltip=FRAMES),
                io.Float.Input(
                    "fps", default=8.0, min=1.0, max=120.0, step=1.0, tooltip="Frames a second of the video output."
                ),
                io.Float.Input(
                    "motion_intensity",
                    default=OWN,
                    min=OWN,
                    max=10.0,
                    step=0.5,
                    tooltip="How much moves, from 0 to 10. Below 0 nothing is said about it.",
                ),
                io.Float.Input(
                    "guidance_eta",
                    **ADVANCED,
                    default=OWN,
                    min=OWN,
                    max=10000.0,
                    step=1.0,
                    tooltip="How far a guided step moves the latent towards the boxes. -1 takes the checkpoint's own.",
                ),
                io.Int.Input(
                    "guidance_iterations",
                    **ADVANCED,
                    default=-1,
                    min=-1,
                    max=50,
                    tooltip="Moves in a guided step, at most. -1 takes the checkpoint's own, 0 only measures.",
                ),
                io.Float.Input(
                    "guidance_fraction",
                    **ADVANCED,
                    default=OWN,
                    min=OWN,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of the steps, from the first, that are guided. -1 takes the checkpoint's own.",
                ),
                io.Float.Input(
                    "guidance_threshold",
                    **ADVANCED,
                    default=OWN,
                    min=OWN,
                    max=1.0,
                    step=0.05,
                    tooltip="Energy below which a step is left as it is. -1 takes the checkpoint's own.",
                ),
                io.Float.Input(
                    "smooth_weight",
                    **ADVANCED,
                    default=0.0,
                    min=0.0,
                    max=20.0,
                    step=0.5,
                    tooltip="Weight of keeping the attention's path as smooth as the boxes'; 0 turns it off.",
                ),
                io.Int.Input(
                    "trailing_tokens",
                    **ADVANCED,
                    default=-1,
                    min=-1,
                    max=64,
                    tooltip="Text positions behind the prompt that are steered with its object. -1 takes the "
                    "checkpoint's own for a lone object, and none for several.",
                ),
                io.Float.Input(
                    "bias_in",
                    default=0.0,
                    min=-50.0,
                    max=50.0,
                    step=0.1,
                    tooltip="Added to the attention logits of a phrase inside its box. Needs no gradient.",
                ),
                io.Float.Input(
                    "bias_out",
                    default=0.0,
                    min=-50.0,
                    max=50.0,
                    step=0.1,
                    tooltip="Taken off the attention logits of a phrase outside its box. Needs no gradient.",
                ),
                io.Float.Input(
                    "bias_fraction",
                    **ADVANCED,
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of the steps, from the first, in which the biases act.",
                ),
                io.Boolean.Input(
                    "allow_joint",
                    **ADVANCED,
                    default=False,
                    tooltip="Guide models whose text and video share one attention, which costs much more.",
                ),
                Trajectory.Input(
                    "trajectory", optional=True, tooltip="Where the objects are. Without it nothing is steered."
                ),
                io.String.Input(
                    "guidance_taps",
                    **ADVANCED,
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Blocks whose attention is read, one name a line. Empty takes the checkpoint's own.",
                ),
                io.Combo.Input(
                    "bias_style",
                    **ADVANCED,
                    options=["logit", "trailblazer", "freetraj"],
                    default="logit",
                    optional=True,
                    tooltip="logit uses bias_in and bias_out; the others edit the attention as TrailBlazer and "
                    "FreeTraj do, and use bias_fraction alone.",
                ),
            ],
            outputs=[
                io.Video.Output("video", tooltip="The video, for SaveVideo."),
                io.Image.Output("images", tooltip="Its frames as a batch."),
                MotionReport.Output("motion_report", tooltip="What was measured, for WM Motion Report."),
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
        num_frames: int,
        fps: float,
        motion_intensity: float,
        trajectory: tuple = (),
        guidance_taps: str = "",
        **guidance: Any,
    ) -> io.NodeOutput:
        from fractions import Fraction

        import torch

        from wm_pipelines import MojitoPipeline
        from wm_pipelines.mojito.outputs import frames_tensor
        from wm_pipelines.mojito.trajectories import trajectory_frames

        from .._shared.progress import StepReporter

        check_pipeline(pipeline, MojitoPipeline, "load a Mojito checkpoint")
        own = ("guidance_eta", "guidance_iterations", "guidance_fraction", "guidance_threshold", "trailing_tokens")
        items = list(trajectory or ())
        pictures = num_frames or (items and trajectory_frames(items)) or USUAL
        guidance |= {name: None if guidance[name] < 0 else guidance[name] for name in own}
        reporter = StepReporter(steps or None)
        with outside_inference_mode(gradients=True):  # towards the boxes
            loaded = pipeline.load(pictures, height, width, training=bool(items))
            with reporter.watching(loaded):
                result = loaded(
                    prompt=prompt.strip(),
                    negative_prompt=negative_prompt,
                    objects=items or None,
                    motion_intensity=None if motion_intensity < 0 else motion_intensity,
                    num_frames=num_frames or None,
                    height=height or None,
                    width=width or None,
                    num_inference_steps=steps or None,
                    guidance_scale=None if guidance_scale < 0 else guidance_scale,
                    guidance_taps=lines_of(guidance_taps) or None,
                    # On the CPU, so that a seed means the same on every device.
                    generator=torch.Generator("cpu").manual_seed(seed),
                    output_type="pt",
                    callback_on_step_end=reporter,
                    **guidance,
                )
        images = to_image(frames_tensor(result.frames[0]))
        video = InputImpl.VideoFromComponents(Types.VideoComponents(images=images, frame_rate=Fraction(fps)))
        phrases = result.plan[0].phrases if result.plan else []
        return io.NodeOutput(video, images, (result.report[0], phrases, marks_of(images)))


NODES = (WM_MojitoSample,)
