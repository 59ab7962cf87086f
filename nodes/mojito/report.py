"""WM_MotionReport: what was measured while a video was sampled is shown."""

from typing import Any

from comfy_api.latest import io

from .._shared.types import CATEGORY, aliases, rgb_of, to_image
from ._sockets import MotionReport, marks_of


class WM_MotionReport(io.ComfyNode):
    """Shows what was measured while a video was sampled."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_MotionReport",
            display_name="WM Motion Report",
            category=f"{CATEGORY}/video",
            **aliases("trajectory, attention, conflicts"),
            description="Show whether objects went where they were sent: conflicts, attention in each box, motion.",
            inputs=[
                MotionReport.Input("motion_report", tooltip="From WM Mojito Sample."),
                io.Image.Input("images", tooltip="The frames from the same WM Mojito Sample."),
            ],
            outputs=[
                io.Image.Output("overlay", tooltip="The frames with each box and the share of attention in it."),
                io.String.Output("report", tooltip="Conflicts and who wins, worst frames, energy, motion."),
            ],
        )

    @classmethod
    def execute(cls, motion_report: tuple, images: Any) -> io.NodeOutput:
        from wm_pipelines.mojito.overlay import describe, report_pictures

        report, phrases, marks = motion_report
        if marks_of(images) != marks:
            frames, height, width = marks[0][:3]
            raise ValueError(
                f"images are not the {frames} frames of {width}x{height} that the report was measured on; connect "
                "images of the same WM Mojito Sample, before anything changes them"
            )
        pictures = report_pictures(rgb_of(images, "images").cpu(), report, phrases)
        return io.NodeOutput(to_image(pictures), "\n".join(describe(report, phrases)))


NODES = (WM_MotionReport,)
