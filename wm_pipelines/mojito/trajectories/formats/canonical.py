"""Our own trajectory file: JSON, versioned, strict.

`{"version": 1, "canvas": [w, h], "objects": [{"phrase": .., "keyframes": [{"frame": .., "box": [x0, y0, x1, y1]}]}]}`,
boxes in units of the canvas (`[1, 1]`: fractions of the picture). An object may also have "weight", "span" and
"hidden", frames in which what it was made from shows no place. One keyframe holds for all frames: a region that stands
still.
"""

import difflib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from wm_pipelines.mojito.trajectories.formats.texts import json_of
from wm_pipelines.mojito.trajectories.objects import MotionObject
from wm_pipelines.mojito.trajectories.values import MOST_FRAMES, brief, real, whole

VERSION = 1


FRACTIONS_FROM = 2.0
"""Width and height of a canvas in pixels from which numbers that all lie in [0, 1] can't be pixels."""


def read(text: Any) -> list[MotionObject]:
    """The objects of a canonical file.

    Raises:
        ValueError: text that is no JSON, another version, an unknown, missing or wrong field; it names the object, the
            keyframe and the value.
    """
    data = json_of(text, "the trajectory")
    _fields(data, "the trajectory", ("version", "canvas", "objects"))
    if whole(data["version"]) != VERSION:
        raise ValueError(f"the trajectory has version {brief(data['version'])}; this package reads version {VERSION}")
    canvas = _numbers(data["canvas"], 2, "canvas")
    if min(canvas) <= 0:
        raise ValueError(f"canvas is {data['canvas']}; width and height must be above 0")
    if not isinstance(data["objects"], list) or not data["objects"]:
        raise ValueError(f"objects is {brief(data['objects'])}; it must be a list of at least one object")
    rows: list[list[float]] = []
    found = [_object(item, f"objects[{index}]", canvas, rows) for index, item in enumerate(data["objects"])]
    not_fractions(np.array(rows), canvas, "objects")
    for index, item in enumerate(found):
        item.key_boxes(index)
    return found


def write(objects: Sequence[MotionObject]) -> str:
    """Objects as a canonical file, in fractions of the picture; `read` gives the same boxes back.

    Raises:
        ValueError: an object that `MotionObject.key_boxes` refuses.
    """
    listed = []
    for index, item in enumerate(objects):
        frames, boxes = item.key_boxes(index)
        keys = [{"frame": frame, "box": box} for frame, box in zip(frames, boxes.tolist(), strict=True)]
        entry: dict[str, Any] = {"phrase": item.phrase, "keyframes": keys}
        if item.weight != 1:
            entry["weight"] = float(item.weight)
        if item.span is not None:
            entry["span"] = [int(end) for end in item.span]
        hidden = item.hidden_frames(f"objects[{index}].")
        if hidden:
            entry["hidden"] = hidden
        listed.append(entry)
    return json.dumps({"version": VERSION, "canvas": [1, 1], "objects": listed}, indent=2, ensure_ascii=False) + "\n"


def _object(item: Any, name: str, canvas: list[float], rows: list[list[float]]) -> MotionObject:
    _fields(item, name, ("phrase", "keyframes"), ("weight", "span", "hidden"))
    keys = item["keyframes"]
    if not isinstance(keys, list) or not keys:
        raise ValueError(f"{name}.keyframes is {brief(keys)}; it must be a list of at least one keyframe")
    frames, boxes = [], []
    for k, key in enumerate(keys):
        _fields(key, f"{name}.keyframes[{k}]", ("frame", "box"))
        frames.append(whole_frame(key["frame"], f"{name}.keyframes[{k}].frame"))
        box = _numbers(key["box"], 4, f"{name}.keyframes[{k}].box")
        rows.append(box)
        boxes.append([side / canvas[n % 2] for n, side in enumerate(box)])
    place: dict[str, Any] = {"boxes": boxes, "keyframes": frames} if len(keys) > 1 else {"boxes": boxes[0]}
    span = item.get("span")
    return MotionObject(
        item["phrase"],
        **place,
        span=tuple(span) if isinstance(span, list) else span,
        weight=item.get("weight", 1.0),
        hidden=item.get("hidden"),
    )


def not_fractions(numbers: np.ndarray, canvas: Sequence[float], name: str) -> None:
    """ValueError where all numbers lie in [0, 1] and the canvas is one of pixels: nobody can know which is meant."""
    small = numbers.size > 0 and np.nanmin(numbers) >= 0 and 0 < np.nanmax(numbers) <= 1
    if small and min(canvas) > FRACTIONS_FROM:
        raise ValueError(
            f"{name}: all numbers lie in [0, 1], so they look like fractions, but canvas is "
            f"{canvas[0]:g} x {canvas[1]:g}; fractions have the canvas 1 x 1"
        )


def whole_frame(value: Any, name: str) -> int:
    """`value`, the index of a frame; a ValueError naming it where it is none."""
    frame = whole(value)
    if frame is None or frame < 0:
        raise ValueError(f"{name} is {brief(value)}; a whole number, 0 or more")
    if frame >= MOST_FRAMES:
        raise ValueError(f"{name} is {brief(value)}; a clip has at most {MOST_FRAMES} frames")
    return frame


def _fields(item: Any, name: str, needed: Sequence[str], allowed: Sequence[str] = ()) -> None:
    if not isinstance(item, dict):
        raise ValueError(f"{name} is {brief(item)}; it must be an object with {', '.join(needed)}")
    for field in item:
        if field not in (*needed, *allowed):
            near = difflib.get_close_matches(field, (*needed, *allowed), n=1, cutoff=0.0)[0]
            raise ValueError(f"{name} has the unknown field {brief(field)}; did you mean {near!r}?")
    for field in needed:
        if field not in item:
            raise ValueError(f"{name} has no {field!r}; it needs {', '.join(needed)}")


def _numbers(values: Any, count: int, name: str) -> list[float]:
    found = [real(value) for value in values] if isinstance(values, list) and len(values) == count else []
    if not found or None in found:
        raise ValueError(f"{name} is {brief(values)}; it must be {count} finite numbers")
    return found
