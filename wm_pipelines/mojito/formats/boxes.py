"""Trajectories of boxes: FreeTraj, TrailBlazer, Peekaboo, ComfyUI's BBOX."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from wm_pipelines.mojito.formats.canonical import whole_frame
from wm_pipelines.mojito.objects import MotionObject


@dataclass(frozen=True)
class PromptedObjects:
    """Objects together with the prompt that their file gives for them."""

    prompt: str
    objects: list[MotionObject]


def read_freetraj(text: str, phrase: str) -> list[MotionObject]:
    """Lines `frame, h0, h1, w0, w1` in fractions: rows before columns.

    Between keyframes both are linear; outside them FreeTraj goes on at the last speed, while a `MotionObject` holds.

    Raises:
        ValueError: a line of another form, naming it.
    """
    frames, boxes = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            frame, *sides = line.split(",")
            h0, h1, w0, w1 = (float(side) for side in sides)
            frames.append(int(frame))
        except ValueError:
            raise ValueError(f"line {number} is {line.strip()!r}; it must be `frame, h0, h1, w0, w1`") from None
        boxes.append([w0, h0, w1, h1])
    if not frames:
        raise ValueError("the trajectory has no keyframe")
    return [MotionObject(phrase, boxes, keyframes=frames)]


def read_trailblazer(text: str, phrase: str | None = None) -> PromptedObjects:
    """A YAML file of TrailBlazer: keyframes with `bbox_ratios` left, top, right, bottom (whatever its comments say).

    The clip has as many frames as the last keyframe plus one.

    Args:
        phrase: the object's words; by default those that `token_inds` counts, from 1, one word a token.

    Raises:
        ValueError: text that is no YAML, another layout, or prompts that change from key to key.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"the trajectory is not YAML: {str(error).splitlines()[0]}") from None
    keys = data.get("keyframe") if isinstance(data, dict) else None
    if not isinstance(keys, list) or not keys:
        raise ValueError("the trajectory has no list `keyframe`")
    for k, key in enumerate(keys):
        for field in ("bbox_ratios", "frame", "prompt"):
            if not isinstance(key, dict) or field not in key:
                raise ValueError(f"keyframe[{k}] has no {field!r}")
        whole_frame(key["frame"], f"keyframe[{k}].frame")
        if key["prompt"] != keys[0]["prompt"]:
            raise ValueError(
                f"keyframe[{k}].prompt is {key['prompt']!r} after {keys[0]['prompt']!r}; one prompt must hold for "
                "the whole clip"
            )
    prompt = str(keys[0]["prompt"])
    if phrase is None:
        phrase = _words_at(prompt, data.get("token_inds"))
    boxes, frames = [key["bbox_ratios"] for key in keys], [key["frame"] for key in keys]
    if len(keys) == 1:
        return PromptedObjects(prompt, [MotionObject(phrase, boxes[0])])
    return PromptedObjects(prompt, [MotionObject(phrase, boxes, keyframes=frames)])


def _words_at(prompt: str, indices: Any) -> str:
    words = prompt.split()
    good = isinstance(indices, list) and indices and all(isinstance(i, int) and 1 <= i <= len(words) for i in indices)
    if not good or indices != list(range(indices[0], indices[-1] + 1)):
        raise ValueError(
            f"token_inds is {indices!r}; it must count neighbouring words of {prompt!r} from 1; pass phrase="
        )
    return " ".join(words[i - 1] for i in indices).strip(".,;:")


def read_peekaboo(text: str) -> list[PromptedObjects]:
    """The records of one of Peekaboo's evaluation sets: `caption`, `subject` and `bboxes`, one a frame.

    Boxes are x0, y0, x1, y1 in fractions, as the set's own evaluation reads them.

    Raises:
        ValueError: text that is no JSON, or a record of another form, naming it.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the set is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    if not isinstance(data, list) or not data:
        raise ValueError("the set must be a list of records")
    found = []
    for n, record in enumerate(data):
        for field in ("caption", "subject", "bboxes"):
            if not isinstance(record, dict) or field not in record:
                raise ValueError(f"record {n} has no {field!r}")
        item = MotionObject(str(record["subject"]).strip(), record["bboxes"])
        found.append(PromptedObjects(str(record["caption"]).strip(), [item]))
    return found


def read_bbox(data: Any, phrase: str, canvas: Sequence[float], outside: str = "error") -> list[MotionObject]:
    """ComfyUI's BBOX, one for each frame or one for all: x, y, width, height in pixels of the canvas.

    Args:
        data: a list of dicts with these keys (core) or of four numbers in this order (KJNodes), or a single one.
        outside: "error" leaves boxes that leave the canvas as they are, and no clip takes them; "clip" cuts them.

    Raises:
        ValueError: another layout, naming the frame.
    """
    single = isinstance(data, Mapping) or (isinstance(data, Sequence) and len(data) == 4 and not _nested(data))
    rows = [data] if single else data
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not len(rows):
        raise ValueError(f"BBOX is {str(data)[:60]!r}; it must be a list of boxes x, y, width, height")
    width, height = canvas
    boxes = []
    for frame, row in enumerate(rows):
        try:
            named = [row[key] for key in ("x", "y", "width", "height")] if isinstance(row, Mapping) else row
            x, y, w, h = (float(value) for value in named)
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"BBOX, frame {frame} is {row!r}; it must be x, y, width, height") from None
        box = [x / width, y / height, (x + w) / width, (y + h) / height]
        boxes.append([min(max(side, 0.0), 1.0) for side in box] if outside == "clip" else box)
    return [MotionObject(phrase, boxes[0] if len(boxes) == 1 else boxes)]


def _nested(data: Sequence[Any]) -> bool:
    return any(isinstance(value, Mapping | Sequence) for value in data)
