"""Our own trajectory file: JSON, versioned, strict.

`{"version": 1, "canvas": [w, h], "objects": [{"phrase": .., "keyframes": [{"frame": .., "box": [x0, y0, x1, y1]}]}]}`,
boxes in units of the canvas (`[1, 1]`: fractions of the picture). An object may also have "weight" and "span". One
keyframe holds for all frames: a region that stands still.
"""

import difflib
import json
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from wm_pipelines.mojito.objects import MotionObject

VERSION = 1


def read(text: str) -> list[MotionObject]:
    """The objects of a canonical file.

    Raises:
        ValueError: text that is no JSON, another version, an unknown, missing or wrong field; it names the object, the
            keyframe and the value.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"the trajectory is not JSON: {error.msg} at {at}") from None
    _fields(data, "the trajectory", ("version", "canvas", "objects"))
    if data["version"] != VERSION or isinstance(data["version"], bool):
        raise ValueError(f"the trajectory has version {data['version']!r}; this package reads version {VERSION}")
    canvas = _numbers(data["canvas"], 2, "canvas")
    if min(canvas) <= 0:
        raise ValueError(f"canvas is {data['canvas']}; width and height must be above 0")
    if not isinstance(data["objects"], list) or not data["objects"]:
        raise ValueError(f"objects is {data['objects']!r}; it must be a list of at least one object")
    found = [_object(item, f"objects[{index}]", canvas) for index, item in enumerate(data["objects"])]
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
        listed.append(entry)
    return json.dumps({"version": VERSION, "canvas": [1, 1], "objects": listed}, indent=2, ensure_ascii=False) + "\n"


def _object(item: Any, name: str, canvas: list[float]) -> MotionObject:
    _fields(item, name, ("phrase", "keyframes"), ("weight", "span"))
    keys = item["keyframes"]
    if not isinstance(keys, list) or not keys:
        raise ValueError(f"{name}.keyframes is {keys!r}; it must be a list of at least one keyframe")
    frames, boxes = [], []
    for k, key in enumerate(keys):
        _fields(key, f"{name}.keyframes[{k}]", ("frame", "box"))
        frames.append(whole_frame(key["frame"], f"{name}.keyframes[{k}].frame"))
        box = _numbers(key["box"], 4, f"{name}.keyframes[{k}].box")
        boxes.append([side / canvas[n % 2] for n, side in enumerate(box)])
    place: dict[str, Any] = {"boxes": boxes, "keyframes": frames} if len(keys) > 1 else {"boxes": boxes[0]}
    span = item.get("span")
    return MotionObject(
        item["phrase"], **place, span=tuple(span) if isinstance(span, list) else span, weight=item.get("weight", 1.0)
    )


def whole_frame(value: Any, name: str) -> int:
    """`value`, the index of a frame; a ValueError naming it where it is none."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is {value!r}; a whole number, 0 or more")
    return value


def _fields(item: Any, name: str, needed: Sequence[str], allowed: Sequence[str] = ()) -> None:
    if not isinstance(item, dict):
        raise ValueError(f"{name} is {item!r}; it must be an object with {', '.join(needed)}")
    for field in item:
        if field not in (*needed, *allowed):
            near = difflib.get_close_matches(field, (*needed, *allowed), n=1, cutoff=0.0)[0]
            raise ValueError(f"{name} has the unknown field {field!r}; did you mean {near!r}?")
    for field in needed:
        if field not in item:
            raise ValueError(f"{name} has no {field!r}; it needs {', '.join(needed)}")


def _numbers(values: Any, count: int, name: str) -> list[float]:
    good = isinstance(values, list) and len(values) == count
    if not good or not all(isinstance(v, Real) and not isinstance(v, bool) and math.isfinite(v) for v in values):
        raise ValueError(f"{name} is {values!r}; it must be {count} finite numbers")
    return [float(value) for value in values]
