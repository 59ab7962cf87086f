"""Sockets between Mojito's nodes."""

from typing import Any

from comfy_api.latest import io

Trajectory = io.Custom("WM_TRAJECTORY")
"""A tuple of `wm_pipelines.mojito.trajectories.objects.MotionObject`."""

MotionReport = io.Custom("WM_MOTION_REPORT")
"""A `wm_pipelines.mojito.outputs.MotionReport`, the phrases of its objects, and `marks_of` its frames."""


def marks_of(images: Any) -> tuple[tuple[int, ...], list[float]]:
    """What tells the frames of one run from those of another: their shape, and how bright each is."""
    return tuple(images.shape), images.double().mean((1, 2, 3)).tolist()
