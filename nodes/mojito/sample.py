"""WM_MojitoSample: prompt and trajectory become a video."""

from typing import Any

from comfy_api.latest import InputImpl, Types, io

from .._shared.guards import check_pipeline, outside_inference_mode
from .._shared.types import CATEGORY, Pipeline, aliases, lines_of, numbers_of, one_picture, to_image
from ._sample_inputs import OWN, guidance_inputs, optional_inputs
from ._sockets import MotionReport, marks_of

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
                *guidance_inputs(),
                *optional_inputs(),
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
        image: Any = None,
        weak_clock: float = 0.0,
        strong_clock: float = 0.0,
        window: int = 0,
        window_stride: int = 4,
        intensity_schedule: str = "",
        **guidance: Any,
    ) -> io.NodeOutput:
        from contextlib import nullcontext
        from fractions import Fraction

        import torch

        from wm_pipelines import MojitoPipeline
        from wm_pipelines.media.pictures import to_pil
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
            windows = loaded.windows(window, window_stride) if window else nullcontext()
            with windows, reporter.watching(loaded):
                result = loaded(
                    prompt=prompt.strip(),
                    negative_prompt=negative_prompt,
                    objects=items or None,
                    motion_intensity=None if motion_intensity < 0 else motion_intensity,
                    intensity_schedule=numbers_of(intensity_schedule, "intensity_schedule") or None,
                    num_frames=num_frames or None,
                    height=height or None,
                    width=width or None,
                    num_inference_steps=steps or None,
                    guidance_scale=None if guidance_scale < 0 else guidance_scale,
                    guidance_taps=lines_of(guidance_taps, "guidance_taps") or None,
                    # On the CPU, so that a seed means the same on every device.
                    generator=torch.Generator("cpu").manual_seed(seed),
                    output_type="pt",
                    callback_on_step_end=reporter,
                    image=None if image is None else to_pil(one_picture(image, "image")),
                    dual_clock=(weak_clock, strong_clock) if weak_clock or strong_clock else None,
                    **guidance,
                )
        images = to_image(frames_tensor(result.frames[0]))
        video = InputImpl.VideoFromComponents(Types.VideoComponents(images=images, frame_rate=Fraction(fps)))
        phrases = result.plan[0].phrases if result.plan else []
        return io.NodeOutput(video, images, (result.report[0], phrases, marks_of(images)))


NODES = (WM_MojitoSample,)
