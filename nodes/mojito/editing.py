"""WM_TrajectoryEdit and WM_TrajectoryJoin: a trajectory is changed, or followed by another."""

from typing import Any

from comfy_api.latest import io

from .._shared.types import ADVANCED, CATEGORY, aliases, lines_of
from ._points import OUTSIDE
from ._sockets import Trajectory

# Tests hold both against the library.
EASINGS = ("linear", "in", "out", "in-out")
ABOUT = ("box", "path", "picture")


def _outputs() -> list[Any]:
    return [
        Trajectory.Output("trajectory", tooltip="The objects, for WM Mojito Sample and WM Mojito Apply."),
        io.String.Output("json", tooltip="The same as our own JSON, in fractions of the picture."),
    ]


class WM_TrajectoryEdit(io.ComfyNode):
    """Turns round, sizes, moves, weighs and resamples a trajectory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        by = {"default": 0.0, "min": -1.0, "max": 1.0, "step": 0.01}
        factor = {"default": 1.0, "min": 0.01, "max": 100.0, "step": 0.01}
        return io.Schema(
            node_id="WM_TrajectoryEdit",
            display_name="WM Trajectory Edit",
            category=f"{CATEGORY}/video",
            **aliases("resample path, shift, scale, reverse, easing, retime, weight"),
            description="Change a trajectory: first it is turned round, then sized, moved and weighed, at last given "
            "another length.",
            inputs=[
                Trajectory.Input("trajectory", tooltip="What to change; it is left as it is, and a new one goes on."),
                io.String.Input(
                    "phrases",
                    default="",
                    multiline=True,
                    tooltip="The objects to change, by their words, one a line. Empty: all. Length and easing are "
                    "always those of all.",
                ),
                io.Int.Input(
                    "num_frames",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Frames to stretch or shrink the whole to; 0 keeps its length.",
                ),
                io.Combo.Input(
                    "easing",
                    options=list(EASINGS),
                    default="linear",
                    tooltip="How fast it goes through its time: evenly, from rest, to rest, or both.",
                ),
                io.Float.Input("shift_x", **by, tooltip="To the right, in fractions of the picture's width."),
                io.Float.Input("shift_y", **by, tooltip="Down, in fractions of the picture's height."),
                io.Float.Input("scale_width", **factor, tooltip="Factor on widths; 1 leaves them."),
                io.Float.Input("scale_height", **factor, tooltip="Factor on heights; 1 leaves them."),
                io.Combo.Input(
                    "about",
                    options=list(ABOUT),
                    default="box",
                    tooltip="What is sized: each box around its middle, the path around its own middle while boxes "
                    "keep their size, or both around the middle of the picture.",
                ),
                io.Boolean.Input("reverse", default=False, tooltip="From the last frame to the first."),
                io.Float.Input(
                    "weight",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Weight among the other objects in the guidance; 0 leaves what it has, 1 at first.",
                ),
                io.Combo.Input(
                    "outside",
                    **ADVANCED,
                    options=list(OUTSIDE),
                    default="error",
                    tooltip="What to do when a box leaves the picture: refuse, or cut it at the border.",
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        trajectory: tuple,
        phrases: str,
        num_frames: int,
        easing: str,
        shift_x: float,
        shift_y: float,
        scale_width: float,
        scale_height: float,
        about: str,
        reverse: bool,
        weight: float,
        outside: str,
    ) -> io.NodeOutput:
        from wm_pipelines.mojito.trajectories import editing, resample, trajectory_frames
        from wm_pipelines.mojito.trajectories.formats.canonical import write

        which = {"phrases": lines_of(phrases, "phrases") or None}
        placed = {**which, "outside": outside}
        objects = list(trajectory)
        if reverse:
            objects = editing.reverse(objects, **which)
        if (scale_width, scale_height) != (1.0, 1.0):
            objects = editing.scale(objects, scale_width, scale_height, about, **placed)
        objects = editing.shift(objects, shift_x, shift_y, **placed)
        if weight:
            objects = editing.weigh(objects, weight, **which)
        length = num_frames or trajectory_frames(objects)
        if length is not None:
            objects = resample(objects, length, easing)
        return io.NodeOutput(tuple(objects), write(objects))


class WM_TrajectoryJoin(io.ComfyNode):
    """One trajectory behind another in time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_TrajectoryJoin",
            display_name="WM Trajectory Join",
            category=f"{CATEGORY}/video",
            **aliases("concatenate paths, sequence, then"),
            description="Let one trajectory follow another in time. Objects of both go on, others wait.",
            inputs=[
                Trajectory.Input("first", optional=True, tooltip="What comes first; alone it goes on as it is."),
                Trajectory.Input("second", optional=True, tooltip="What follows; alone it goes on as it is."),
                io.Int.Input(
                    "pause",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Frames between the two, in which objects of both go straight from end to beginning.",
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(cls, pause: int, first: tuple = (), second: tuple = ()) -> io.NodeOutput:
        from wm_pipelines.mojito.trajectories.editing import join
        from wm_pipelines.mojito.trajectories.formats.canonical import write

        if not first and not second:
            raise ValueError("connect first and second, or one of them; none came in")
        objects = join(first, second, pause) if first and second else first or second
        return io.NodeOutput(tuple(objects), write(objects))


NODES = (WM_TrajectoryEdit, WM_TrajectoryJoin)
