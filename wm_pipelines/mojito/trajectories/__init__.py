"""Where objects are over time: what users hand in, read from any tool's format, checked and held against the words."""

from wm_pipelines.mojito.trajectories.objects import MotionObject, object_boxes
from wm_pipelines.mojito.trajectories.reading import (
    FORMATS,
    TIMED_FORMATS,
    load_trajectory,
    objects_from_tracks,
    parse_object,
    read_trajectory,
    save_trajectory,
)
from wm_pipelines.mojito.trajectories.resampling import EASINGS, resample, trajectory_frames

__all__ = [
    "EASINGS",
    "FORMATS",
    "TIMED_FORMATS",
    "MotionObject",
    "load_trajectory",
    "object_boxes",
    "objects_from_tracks",
    "parse_object",
    "read_trajectory",
    "resample",
    "save_trajectory",
    "trajectory_frames",
]
