"""A trajectory moved, sized, turned round, weighed or followed by another; the one that comes in stays as it is."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from wm_pipelines.mojito.trajectories.formats.boxes import check_outside
from wm_pipelines.mojito.trajectories.objects import ROUNDING, MotionObject, check_objects
from wm_pipelines.mojito.trajectories.resampling import trajectory_frames
from wm_pipelines.mojito.trajectories.values import MOST_FRAMES, brief, real, whole

ABOUT: tuple[str, ...] = ("box", "path", "picture")
"""What `scale` keeps in place: the middle of each box, the middle of the way, or that of the picture."""


def shift(
    objects: Sequence[MotionObject],
    x: float,
    y: float,
    phrases: Sequence[str] | None = None,
    outside: str = "error",
) -> list[MotionObject]:
    """The trajectory moved by a part of the picture.

    Args:
        x, y: in fractions of its width and height; above 0 to the right and down.
        phrases: of the objects that move; None: all.
        outside: "error" refuses a box that leaves the picture, "clip" cuts it at the border.

    Raises:
        ValueError: a number that is not finite, a phrase that no object has, or a box that leaves the picture; it
            names the object and the frame.

    Example:
        >>> path = [MotionObject("red cube", boxes=(0, 0, 0.25, 0.5))]
        >>> shift(path, 0.5, 0.25)[0].frame_boxes(1).tolist()
        [[0.5, 0.25, 0.75, 0.75]]
    """
    by = np.array([_finite(x, "x"), _finite(y, "y")] * 2)
    return _each(objects, phrases, lambda boxes: boxes + by, outside)


def scale(
    objects: Sequence[MotionObject],
    width: float,
    height: float,
    about: str = "box",
    phrases: Sequence[str] | None = None,
    outside: str = "error",
) -> list[MotionObject]:
    """Boxes, ways or both made larger or smaller.

    Args:
        width, height: factors, above 0.
        about: "box" sizes each box around its middle, "path" the way around the middle of all its places and leaves
            the boxes as large as they are, "picture" both around the middle of the picture.
        phrases, outside: as `shift`.

    Raises:
        ValueError: an unknown `about`, a factor that is not above 0, or as `shift`.

    Example:
        >>> path = [MotionObject("red cube", boxes=(0.25, 0.25, 0.75, 0.75))]
        >>> scale(path, 0.5, 1.0)[0].frame_boxes(1).tolist()
        [[0.375, 0.25, 0.625, 0.75]]
    """
    if about not in ABOUT:
        raise ValueError(f"about={brief(about)}; choose from {', '.join(ABOUT)}")
    factor = np.array([_finite(width, "width"), _finite(height, "height")])
    for name, value in zip(("width", "height"), factor, strict=True):
        if value <= 0:
            raise ValueError(f"{name}={value:g}; a factor above 0")

    def scaled(boxes: np.ndarray) -> np.ndarray:
        middles, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        if about != "box":
            ground = 0.5 if about == "picture" else (middles.min(0) + middles.max(0)) / 2
            middles = ground + (middles - ground) * factor
        if about != "path":
            half = half * factor
        return np.concatenate([middles - half, middles + half], axis=1)

    return _each(objects, phrases, scaled, outside)


def reverse(objects: Sequence[MotionObject], phrases: Sequence[str] | None = None) -> list[MotionObject]:
    """The trajectory from its last frame to its first.

    Keyframes are turned round in the clip that the whole trajectory was made for (`trajectory_frames`), so what
    happened together still does.

    Raises:
        ValueError: as `shift`.
    """
    chosen, whole = _chosen(objects, phrases), trajectory_frames(objects)
    found = []
    for index, item in enumerate(objects):
        frames, boxes = item.key_boxes(index)
        if index not in chosen or len(frames) < 2:
            found.append(item)
            continue
        last = (len(frames) if item.keyframes is None else whole) - 1
        keys = None if item.keyframes is None else [last - frame for frame in reversed(frames)]
        hidden = [last - frame for frame in reversed(item.hidden_frames()) if frame <= last]
        turned = boxes.flip(0).numpy()
        found.append(replace(item, boxes=turned, keyframes=keys, points=None, size=None, hidden=hidden or None))
    return found


def weigh(objects: Sequence[MotionObject], weight: float, phrases: Sequence[str] | None = None) -> list[MotionObject]:
    """The trajectory with another weight of its objects among the others.

    Args:
        weight: above 0.
        phrases: as `shift`.

    Raises:
        ValueError: a weight that is not above 0, or as `shift`.
    """
    value = real(weight)
    if value is None or value <= 0:
        raise ValueError(f"weight={brief(weight)}; a finite number above 0")
    chosen = _chosen(objects, phrases)
    return [replace(item, weight=value) if index in chosen else item for index, item in enumerate(objects)]


def join(first: Sequence[MotionObject], second: Sequence[MotionObject], pause: int = 0) -> list[MotionObject]:
    """One trajectory behind another in time.

    An object of both, one whose phrase and span are equal, goes its first way and then its second; during the pause it
    goes straight from the one to the other. One of the first alone stays where it ends, one of the second alone waits
    where it begins. A trajectory whose objects all stand still lasts one frame.

    Args:
        pause: frames between the last of the first and the first of the second.

    Raises:
        ValueError: a pause that is no whole number from 0, a phrase that one of the two has twice, a clip that gets
            too long, or objects that `MotionObject.key_boxes` refuses.

    Example:
        >>> there = [MotionObject("red cube", boxes=[(0, 0, 0.5, 1), (0.5, 0, 1, 1)])]
        >>> join(there, reverse(there))[0].frame_boxes(4)[:, 0].tolist()
        [0.0, 0.5, 0.5, 0.0]
    """
    gap = whole(pause)
    if gap is None or gap < 0:
        raise ValueError(f"pause={brief(pause)}; a whole number of frames, 0 or more")
    before, after = _by_words(first, "first"), _by_words(second, "second")
    start = (trajectory_frames(first) or 1) + gap
    total = start + (trajectory_frames(second) or 1)
    if total > MOST_FRAMES:
        raise ValueError(f"joined, the trajectories last {total} frames; a clip has at most {MOST_FRAMES}")
    found = []
    for words in dict.fromkeys((*before, *after)):
        parts = [(before[words], 0, start - gap)] if words in before else []
        parts += [(after[words], start, total)] if words in after else []
        frames: list[int] = []
        boxes: list[torch.Tensor] = []
        hidden: list[int] = []
        for item, at, end in parts:
            own, places = item.key_boxes()
            own = [at + frame for frame in own]
            if len(parts) == 2 and own[-1] < end - 1:  # it waits there, and does not set out before the other begins
                own, places = [*own, end - 1], torch.cat([places, places[-1:]])
            if len(parts) == 2 and at and own[0] > at:
                own, places = [at, *own], torch.cat([places[:1], places])
            frames += own
            boxes.append(places)
            hidden += [at + frame for frame in item.hidden_frames() if at + frame < end]
        rows = torch.cat(boxes).numpy()
        place = {"boxes": rows, "keyframes": frames} if len(frames) > 1 else {"boxes": rows[0], "keyframes": None}
        item = parts[0][0]
        found.append(replace(item, **place, points=None, size=None, hidden=hidden or None))
    return found


def _each(
    objects: Sequence[MotionObject],
    phrases: Sequence[str] | None,
    change: Callable[[np.ndarray], np.ndarray],
    outside: str,
) -> list[MotionObject]:
    """The chosen objects with changed boxes `(K, 4)`."""
    check_outside(outside)
    chosen = _chosen(objects, phrases)
    found = []
    for index, item in enumerate(objects):
        if index not in chosen:
            found.append(item)
            continue
        frames, places = item.key_boxes(index)
        boxes, keys = change(places.numpy()), None if item.keyframes is None else frames
        if outside == "clip" and (boxes.min() < 0 or boxes.max() > 1):
            if keys is not None:  # cut at each frame: cut at its keyframes alone, a box would shrink on the way
                keys = list(range(frames[0], frames[-1] + 1))
                boxes = np.stack([np.interp(keys, frames, side) for side in boxes.T], axis=1)
            boxes = boxes.clip(0, 1)
        _check_inside(boxes, frames if keys is None else keys, f'objects[{index}] ("{item.phrase}")')
        place = boxes if len(boxes) > 1 else boxes[0]
        keys = keys if len(boxes) > 1 else None
        found.append(replace(item, boxes=place, keyframes=keys, points=None, size=None))
    return found


def _check_inside(boxes: np.ndarray, frames: Sequence[int], name: str) -> None:
    """ValueError naming the first box that has left the picture, or of which nothing is left in it."""
    out = (boxes < -ROUNDING).any(1) | (boxes > 1 + ROUNDING).any(1)
    gone = (boxes[:, 2:].astype(np.float32) <= boxes[:, :2].astype(np.float32)).any(1)
    for row in np.flatnonzero(out | gone):
        sides = ", ".join(f"{side:.3g}" for side in boxes[row])
        how = "lies outside the picture" if gone[row] else "leaves the picture"
        remedy = "" if gone[row] else "; change less, or pass outside='clip'"
        raise ValueError(f"{name} {how} at frame {frames[row]}: its box is {sides}{remedy}")


def _chosen(objects: Sequence[MotionObject], phrases: Sequence[str] | None) -> set[int]:
    """Which objects have one of the phrases; None: all."""
    check_objects(objects)
    if phrases is None:
        return set(range(len(objects)))
    have = [item.phrase for item in objects]
    for wanted in [phrases] if isinstance(phrases, str) else phrases:
        if wanted not in have:
            near = difflib.get_close_matches(str(wanted), have, n=1, cutoff=0.0)[0]
            raise ValueError(f"phrases has {brief(wanted)}, which no object is; did you mean {near!r}?")
    return {index for index, phrase in enumerate(have) if phrase in phrases}


def _by_words(objects: Sequence[MotionObject], name: str) -> dict[tuple, MotionObject]:
    """The objects under what tells them from one another."""
    found: dict[tuple, MotionObject] = {}
    for index, item in enumerate(check_objects(objects)):
        item.key_boxes(index)
        words = (item.phrase, None if item.span is None else tuple(item.span))
        if words in found:
            raise ValueError(
                f"{name} has {item.phrase!r} twice, so what follows which is not known; tell them by span"
            )
        found[words] = item
    return found


def _finite(value: float, name: str) -> float:
    number = real(value)
    if number is None:
        raise ValueError(f"{name}={brief(value)}; a finite number")
    return number
