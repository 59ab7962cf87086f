"""Sockets between Mojito's nodes."""

from comfy_api.latest import io

Trajectory = io.Custom("WM_TRAJECTORY")
"""A tuple of `wm_pipelines.mojito.trajectories.objects.MotionObject`."""

MotionReport = io.Custom("WM_MOTION_REPORT")
"""A `wm_pipelines.mojito.outputs.MotionReport` and the phrases of its objects, as a pair."""
