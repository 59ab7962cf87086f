"""WM_MojitoApply: a trajectory steers a native MODEL."""

from typing import Any

from comfy_api.latest import io

from .._shared.types import CATEGORY, aliases, numbers_of
from ._sockets import Trajectory


class WM_MojitoApply(io.ComfyNode):
    """Biases the text attention of a native model towards the boxes of a trajectory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_MojitoApply",
            display_name="WM Mojito Apply",
            category=f"{CATEGORY}/video",
            **aliases("wan, animatediff, motion control, trajectory, attention bias"),
            description="Keep the objects of a prompt in the boxes of a trajectory, in a native model: SD 1.5 under "
            "AnimateDiff, or Wan. No gradient, so it works with KSampler.",
            inputs=[
                io.Model.Input("model", tooltip="SD 1.x, 2.x or XL, also after AnimateDiff-Evolved, or Wan."),
                io.Clip.Input("clip", tooltip="The model's text encoder. It tells which tokens a phrase has."),
                io.String.Input(
                    "prompt",
                    default="a red cube moving right",
                    multiline=True,
                    tooltip="The positive prompt, with the phrases of the trajectory as they stand there.",
                ),
                Trajectory.Input("trajectory", tooltip="From WM Trajectory or WM Trajectory From Tracks."),
                io.Int.Input(
                    "num_frames",
                    default=16,
                    min=0,
                    max=4096,
                    tooltip="Frames of the whole clip: the batch of an SD latent, the length of a Wan latent. 0 takes "
                    "them from the latent. A trajectory of another length is resampled.",
                ),
                io.Float.Input(
                    "bias_in",
                    default=3.0,
                    min=-50.0,
                    max=50.0,
                    step=0.1,
                    tooltip="Added to the attention logits of a phrase inside its box.",
                ),
                io.Float.Input(
                    "bias_out",
                    default=3.0,
                    min=-50.0,
                    max=50.0,
                    step=0.1,
                    tooltip="Taken off the attention logits of a phrase outside its box.",
                ),
                io.Float.Input(
                    "fraction",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of the steps, from the first, in which the bias acts. Lower it if edges show.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="The prompt as other nodes left it, such as ControlNet's; it is passed on as it is.",
                ),
                io.Conditioning.Input("negative", optional=True, tooltip="Passed on as it is."),
                io.String.Input(
                    "schedule",
                    default="",
                    optional=True,
                    tooltip="Factors on both biases from the first step to the last, as 1, 0.5, 0; linear between. "
                    "Empty: the same all the time.",
                ),
            ],
            outputs=[
                io.Model.Output("model", tooltip="The steered model; the one that came in is left alone."),
                io.Conditioning.Output("positive", tooltip="What came in, else the prompt, encoded. Sample with it."),
                io.String.Output("report", tooltip="What prompt and trajectory disagree about, and which will win."),
                # Bypassing joins an output to the input in its own slot, else to the first of its type. So that
                # negative is not given what positive is, it stands in the fifth slot, as its input does.
                Trajectory.Output("trajectory", tooltip="The trajectory that came in."),
                io.Conditioning.Output("negative", tooltip="What came in, else the empty prompt, encoded."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        prompt: str,
        trajectory: tuple,
        num_frames: int,
        bias_in: float,
        bias_out: float,
        fraction: float,
        positive: Any = None,
        negative: Any = None,
        schedule: str = "",
    ) -> io.NodeOutput:
        from wm_pipelines.mojito.trajectories.conflicts import find_conflicts
        from wm_pipelines.mojito.trajectories.objects import hidden_lines, object_boxes
        from wm_pipelines.mojito.trajectories.resampling import to_clip, trajectory_frames

        from ._conditioning import check_holds
        from ._native_motion import MotionBias, kind_of, positions_of

        kind = kind_of(model)
        frames = num_frames or trajectory_frames(list(trajectory)) or 1
        items, resampled = to_clip(list(trajectory), frames)
        boxes = object_boxes(items, frames)
        positions, length = positions_of(clip, prompt, trajectory)
        bias = MotionBias(
            kind=kind,
            objects=items,
            num_frames=num_frames,
            positions=positions,
            length=length,
            bias_in=bias_in,
            bias_out=bias_out,
            fraction=fraction,
            schedule=numbers_of(schedule, "schedule"),
        )
        encoded = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        if positive is not None:
            check_holds(positive, encoded)
        if negative is None:
            negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
        lines = find_conflicts(prompt, items, boxes, ()) or ["no conflict"]
        lines += resampled + hidden_lines(items, frames)
        outputs = (
            bias.apply(model),
            encoded if positive is None else positive,
            "\n".join(lines),
            trajectory,
            negative,
        )
        return io.NodeOutput(*outputs)


NODES = (WM_MojitoApply,)
