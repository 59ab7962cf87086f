"""WM_PhysicsReport: how physical a scene in time is, in terms that are measured one by one."""

import json
from typing import Any

from comfy_api.latest import io

from .._shared.guards import outside_inference_mode
from .._shared.types import CATEGORY, aliases, pil_image
from ._sockets import Scene


class WM_PhysicsReport(io.ComfyNode):
    """Measures a scene in time against the laws of physics."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_PhysicsReport",
            display_name="WM Physics Report",
            category=f"{CATEGORY}/measure",
            **aliases("gravity, benchmark, plausible"),
            description="Measure how physical a scene in time is: rigidity, volume, momentum, support, energy.",
            inputs=[
                Scene.Input("scene4d", tooltip="A scene in time."),
                io.Float.Input(
                    "gravity",
                    default=9.81,
                    min=0.01,
                    max=100.0,
                    step=0.01,
                    tooltip="m/s^2 downwards, what the motion is held against.",
                ),
                io.Float.Input(
                    "floor", default=0.0, min=-1e4, max=1e4, step=0.01, tooltip="Height of the floor, metres."
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="What the first camera truly saw: whole numbers, one mask a frame, 0 the background. "
                    "Without them nothing is said of what vanishes.",
                ),
            ],
            outputs=[
                io.Image.Output("picture", tooltip="The table, and each term over time."),
                io.String.Output("table", tooltip="Terms, verdicts and the constants that the motion shows."),
                io.String.Output("json", tooltip="The whole report, with values for each object and frame."),
                io.Boolean.Output("holds", tooltip="Whether it is as physical as valid clips are."),
            ],
        )

    @classmethod
    def execute(cls, scene4d: Any, gravity: float, floor: float, masks: Any = None) -> io.NodeOutput:
        from wm_pipelines.morpho4d.physics.plots import report_picture
        from wm_pipelines.morpho4d.physics.report import scene_physics

        with outside_inference_mode():
            ids = None if masks is None else masks.round().long()
            report = scene_physics(scene4d, ids, gravity, floor, simulator=True)
            picture = pil_image(report_picture(report))
        said = json.dumps(report.to_dict(), allow_nan=False)
        return io.NodeOutput(picture, "\n".join(report.lines()), said, report.holds)


NODES = (WM_PhysicsReport,)
