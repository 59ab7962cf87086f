"""WM_MojitoApply: a trajectory steers a native MODEL."""

from typing import Any

from comfy_api.latest import io

from .._shared.types import CATEGORY
from ._sockets import Trajectory


class WM_MojitoApply(io.ComfyNode):
    """Biases the text attention of a native model towards the boxes of a trajectory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_MojitoApply",
            display_name="WM Mojito Apply",
            category=CATEGORY,
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
            ],
            outputs=[
                io.Model.Output("model", tooltip="The steered model; the one that came in is left alone."),
                io.Conditioning.Output("positive", tooltip="The prompt, encoded. Sample with this one."),
                io.String.Output("report", tooltip="What prompt and trajectory disagree about, and which will win."),
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
    ) -> io.NodeOutput:
        from wm_pipelines.mojito.trajectories.conflicts import find_conflicts
        from wm_pipelines.mojito.trajectories.objects import hidden_lines, object_boxes
        from wm_pipelines.mojito.trajectories.resampling import to_clip, trajectory_frames

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
        )
        positive = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        lines = find_conflicts(prompt, items, boxes, ()) or ["no conflict"]
        lines += resampled + hidden_lines(items, frames)
        return io.NodeOutput(bias.apply(model), positive, "\n".join(lines))


NODES = (WM_MojitoApply,)
