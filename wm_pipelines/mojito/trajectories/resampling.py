"""A trajectory over another number of frames: the same way in the same places, faster or slower."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from wm_pipelines.mojito.trajectories.objects import MotionObject, check_objects
from wm_pipelines.mojito.trajectories.values import frame_count

EASINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda u: u,
    "in": lambda u: u**2,
    "out": lambda u: u * (2 - u),
    "in-out": lambda u: u**2 * (3 - 2 * u),
}
"""Share of the trajectory's time that has passed at a share of the clip's; all go from 0 to 1 without turning back."""


def trajectory_frames(objects: Sequence[MotionObject]) -> int | None:
    """Frames of the clip that a trajectory was made for: as many as an object has places, or one more than its last
    keyframe, of all objects the most; None where every object stands still.

    Raises:
        ValueError: as `MotionObject.key_boxes`.
    """
    check_objects(objects)
    lengths = [_length(item, index) for index, item in enumerate(objects)]
    return max((length for length in lengths if length is not None), default=None)


def resample(objects: Sequence[MotionObject], num_frames: int, easing: str = "linear") -> list[MotionObject]:
    """The trajectory stretched or shrunk to `num_frames`, its first frame to the first and its last to the last.

    Objects with a place for each frame have one for each of the new frames; keyframes are read on the clip that the
    whole trajectory was made for (`trajectory_frames`), so what happened together still does. Between places all sides
    are linear. Objects that stand still, and everything where the length stays and `easing` is "linear", are handed
    back as they are.

    Args:
        num_frames: of the new clip.
        easing: "linear" keeps the speed even, "in" starts from rest, "out" ends at rest, "in-out" does both.

    Raises:
        ValueError: an unknown easing, a bad number of frames, or an object that `MotionObject.key_boxes` refuses.

    Example:
        >>> path = [MotionObject("red cube", boxes=[(0, 0, 0.5, 1), (0.5, 0, 1, 1)])]
        >>> resample(path, 3)[0].frame_boxes(3)[1].tolist()
        [0.25, 0.0, 0.75, 1.0]
    """
    if easing not in EASINGS:
        raise ValueError(f"easing={easing!r}; choose from {', '.join(EASINGS)}")
    count, whole = frame_count(num_frames), trajectory_frames(objects)
    found = []
    for index, item in enumerate(objects):
        length = _length(item, index)
        if length is None or (length == count and item.keyframes is None and easing == "linear"):
            found.append(item)
            continue
        made_for = length if item.keyframes is None else whole
        if made_for == count and easing == "linear":
            found.append(item)
            continue
        at = EASINGS[easing](np.linspace(0, 1, count)) * (made_for - 1)
        frames, boxes = item.key_boxes(index)
        sides = np.stack([np.interp(at, frames, side) for side in boxes.numpy().T], axis=1)
        # of two equally near frames the earlier, as `formats.timing.hidden_frames` has it
        nearest = np.ceil(at - 0.5 - 1e-9).clip(0).astype(int)
        hidden = np.flatnonzero(np.isin(nearest, item.hidden_frames())).tolist()
        found.append(replace(item, boxes=sides, keyframes=None, points=None, size=None, hidden=hidden or None))
    return found


def to_clip(objects: Sequence[MotionObject], num_frames: int) -> tuple[list[MotionObject], list[str]]:
    """The objects with places in a clip of `num_frames`, resampled where theirs is another, and a line that says so.

    Keyframes that all lie in the clip are taken as they are: the last one holds to its end.

    Raises:
        ValueError: as `resample`.
    """
    lengths = [_length(item, index) for index, item in enumerate(check_objects(objects))]
    other = [
        index
        for index, (item, length) in enumerate(zip(objects, lengths, strict=True))
        if length is not None and (length > num_frames if item.keyframes is not None else length != num_frames)
    ]
    if not other:
        return list(objects), []
    stretched = resample(objects, num_frames)
    beyond = any(objects[index].keyframes is not None for index in other)
    found, lines = [], []
    for index, (item, new) in enumerate(zip(objects, stretched, strict=True)):
        chosen = index in other or (beyond and item.keyframes is not None)
        found.append(new if chosen else item)
        if chosen and new is not item:
            made_for = lengths[index] if item.keyframes is None else max(n for n in lengths if n is not None)
            lines.append(
                f'objects[{index}] ("{item.phrase}") has a path of {made_for} frames, the clip has {num_frames}: '
                "it is resampled"
            )
    return found, lines


def _length(item: MotionObject, index: int) -> int | None:
    """Frames that an object's places are for; None where it has one place for all."""
    frames, _ = item.key_boxes(index)
    return frames[-1] + 1 if len(frames) > 1 else None
