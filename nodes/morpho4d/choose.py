"""WM_PhysicsChoice: of several clips of the miniature world the most physical one."""

from typing import Any

from comfy_api.latest import io

from .._shared.guards import outside_inference_mode
from .._shared.types import CATEGORY, aliases, pictures_of, to_image


class WM_PhysicsChoice(io.ComfyNode):
    """Ranks clips by the physics report and keeps the best."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_PhysicsChoice",
            display_name="WM Physics Choice",
            category=f"{CATEGORY}/measure",
            **aliases("best of n, rank, choose, plausible, gravity"),
            description="Keep the most physical of several clips of the miniature world.",
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="The clips one behind another, all of one length, as core's Batch Images joins them.",
                ),
                io.Int.Input("clips", default=4, min=1, max=64, tooltip="How many clips came."),
                io.Float.Input(
                    "fps", default=8.0, min=1.0, max=120.0, step=1.0, tooltip="Frames a second of the clips."
                ),
                io.Float.Input(
                    "gravity",
                    default=9.81,
                    min=0.01,
                    max=100.0,
                    step=0.01,
                    tooltip="m/s^2 downwards, what the motion is held against.",
                ),
            ],
            outputs=[
                io.Image.Output("best", tooltip="The frames of the clip that is kept."),
                io.Image.Output("ranked", tooltip="All clips one behind another, the most physical first."),
                io.String.Output("scores", tooltip="A line for each clip in that order."),
                io.Boolean.Output("holds", tooltip="Whether the one that is kept is as physical as valid clips are."),
            ],
        )

    @classmethod
    def execute(cls, images: Any, clips: int, fps: float, gravity: float) -> io.NodeOutput:
        import torch

        from wm_pipelines.morpho4d.physics.footage import ranked_clips

        if len(images) % clips:
            raise ValueError(f"images holds {len(images)} pictures, which are no {clips} clips of one length")
        with outside_inference_mode():
            each = torch.stack(pictures_of(images, "images")).chunk(clips)
            found = ranked_clips(each, fps, gravity)
        unseen = "nothing of the miniature world is seen"
        lines = [
            f"{rank}. clip {n + 1}: {unseen if report is None else report.lines()[-1]}"
            for rank, (n, report) in enumerate(found, 1)
        ]
        ranked = to_image(torch.cat([each[n] for n, _ in found]))
        best = found[0][1]
        return io.NodeOutput(ranked[: len(each[0])], ranked, "\n".join(lines), best is not None and best.holds)


NODES = (WM_PhysicsChoice,)
