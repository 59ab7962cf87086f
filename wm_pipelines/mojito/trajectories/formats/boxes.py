"""Trajectories of boxes: FreeTraj, TrailBlazer, Peekaboo, ComfyUI's BBOX.

All are checked in the same way while they are read: corners in order, inside the picture, finite, at rising frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wm_pipelines.mojito.trajectories.formats.canonical import not_fractions, whole_frame
from wm_pipelines.mojito.trajectories.formats.texts import json_of, lines_of, number, numbers, yaml_of
from wm_pipelines.mojito.trajectories.objects import MotionObject
from wm_pipelines.mojito.trajectories.values import array, brief, frame_count, pair, real, whole

PEEKABOO_ORDERS = {"xyxy": (0, 1, 2, 3), "xxyy": (0, 2, 1, 3)}
"""Orders of a box's numbers in Peekaboo's sets, and where x0, y0, x1, y1 stand in them."""

BOX_ORDERS = ("xywh", "xyxy")
"""What the four numbers of a box in a list may be: left, top, width, height, or left, top, right, bottom."""

_SIZES = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
_CORNERS = (
    ("x0", "y0", "x1", "y1"),
    ("x1", "y1", "x2", "y2"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("left", "top", "right", "bottom"),
)
_DRAWN = ("startX", "startY", "endX", "endY")


@dataclass(frozen=True)
class PromptedObjects:
    """Objects together with the prompt that their file gives for them.

    Args:
        record: which record of the file this was, from 0.
    """

    prompt: str
    objects: list[MotionObject]
    record: int = 0


def read_freetraj(text: Any, phrase: str, num_frames: int | None = None, outside: str = "error") -> list[MotionObject]:
    """Lines `frame, h0, h1, w0, w1` in fractions: rows before columns.

    Between keyframes all sides are linear. Before the first and after the last, FreeTraj's box goes on as fast as its
    top and left side moved in the frame next to it, and keeps its size (`plan_path` of `utils/utils_freetraj.py`).
    With `num_frames` this is so here too. Without, and with a single keyframe, from which FreeTraj reads no speed, the
    keyframes become those of a `MotionObject`, which holds.

    Args:
        num_frames: of the clip.
        outside: "error" refuses boxes that leave the picture on the way, "clip" cuts them at its border.

    Raises:
        ValueError: a line of another form, frames that don't rise, or a bad box, naming it.
    """
    frames, boxes = [], []
    for line_number, line in lines_of(text, "the trajectory"):
        frame, _, sides = line.partition(",")
        try:
            h0, h1, w0, w1 = numbers(sides, 4)
            first = number(frame)
            if not first.is_integer() or not frame.strip().lstrip("+-").isdigit():
                raise ValueError
        except (ValueError, OverflowError):
            raise ValueError(f"line {line_number} is {brief(line)}; it must be `frame, h0, h1, w0, w1`") from None
        frames.append(int(first))
        boxes.append([w0, h0, w1, h1])
    if not frames:
        raise ValueError("the trajectory has no keyframe")
    check_outside(outside)
    item = MotionObject(phrase, boxes, keyframes=frames)
    _checked(item)
    count = None if num_frames is None else frame_count(num_frames)
    if count is None or len(frames) == 1:
        return [item]
    planned = _planned(np.array(frames), np.array(boxes), count)
    if outside == "clip":
        planned = planned.clip(0, 1)
    found = MotionObject(phrase, planned, keyframes=range(count))  # names frames in what it refuses
    try:
        _checked(found)
    except ValueError as error:
        last = f"the keyframes are {frames[0]} to {frames[-1]}, beyond which FreeTraj's box goes on at its speed"
        raise ValueError(f"{error} ({last}; give keyframes for the whole clip, or outside='clip')") from None
    return [found]


def _checked(item: MotionObject) -> None:
    """ValueError, naming the object, where a `MotionObject` refuses its keyframes or boxes."""
    try:
        item.key_boxes()
    except ValueError as error:
        raise ValueError(f"{brief(item.phrase)}: {error}") from None


def _planned(frames: np.ndarray, boxes: np.ndarray, num_frames: int) -> np.ndarray:
    """x0, y0, x1, y1 of each frame, `(F, 4)`, of keyframes `(K,)` and `(K, 4)`, K at least 2."""
    every = np.arange(num_frames)
    path = np.stack([np.interp(every, frames, side) for side in boxes.T], axis=1)
    for key, other in ((0, 1), (-1, -2)):
        speed = (boxes[key] - boxes[other]) / (frames[key] - frames[other])
        beyond = every < frames[0] if key == 0 else every > frames[-1]
        # the size stays, so right and bottom move as left and top do
        path[beyond] = boxes[key] + np.outer(every[beyond] - frames[key], speed[[0, 1, 0, 1]])
    return path


def read_trailblazer(text: Any, phrase: str | None = None) -> PromptedObjects:
    """A YAML file of TrailBlazer: keyframes with `bbox_ratios` left, top, right, bottom (whatever its comments say).

    TrailBlazer holds each key but the first and the last for two frames: a way that follows another starts one frame
    after its key (`keyframed_bbox` of `TrailBlazer/Pipeline/Utils.py`). The object's keyframes have these frames too,
    so it is where TrailBlazer's is. The clip has as many frames as the last keyframe plus one; in a longer one the
    box stays. A key in the frame after another, which TrailBlazer can't interpolate, is met at its own frame.

    Args:
        phrase: the object's words; by default those that `token_inds` counts, from 1, one word a token.

    Raises:
        ValueError: text that is no YAML, another layout, keys that don't rise from frame 0, a bad box, or prompts that
            change from key to key.
    """
    data = yaml_of(text, "the trajectory")
    keys = data.get("keyframe") if isinstance(data, dict) else None
    if not isinstance(keys, list) or not keys:
        raise ValueError("the trajectory has no list `keyframe`")
    for k, key in enumerate(keys):
        for field in ("bbox_ratios", "frame", "prompt"):
            if not isinstance(key, dict) or field not in key:
                raise ValueError(f"keyframe[{k}] has no {field!r}")
        frame = whole_frame(key["frame"], f"keyframe[{k}].frame")
        if k == 0 and frame and len(keys) > 1:
            raise ValueError(f"keyframe[0].frame is {frame}; the first key of TrailBlazer is at frame 0")
        if k and frame <= keys[k - 1]["frame"]:
            raise ValueError(f"keyframe[{k}].frame is {frame} after {keys[k - 1]['frame']}; they must rise strictly")
        if not isinstance(key["prompt"], str):
            raise ValueError(f"keyframe[{k}].prompt is {brief(key['prompt'])}; it must be text")
        if key["prompt"] != keys[0]["prompt"]:
            raise ValueError(
                f"keyframe[{k}].prompt is {brief(key['prompt'])} after {brief(keys[0]['prompt'])}; one prompt must "
                "hold for the whole clip"
            )
        checked_box(key["bbox_ratios"], f"keyframe[{k}] (frame {frame})")
    prompt = keys[0]["prompt"]
    if phrase is None:
        phrase = _words_at(prompt, data.get("token_inds"))
    if len(keys) == 1:
        return PromptedObjects(prompt, [MotionObject(phrase, keys[0]["bbox_ratios"])])
    frames, boxes = [], []
    for k, key in enumerate(keys):
        frames.append(key["frame"])
        boxes.append(key["bbox_ratios"])
        if 0 < k < len(keys) - 1 and keys[k + 1]["frame"] > key["frame"] + 1:
            frames.append(key["frame"] + 1)
            boxes.append(key["bbox_ratios"])
    item = MotionObject(phrase, boxes, keyframes=frames)
    _checked(item)
    return PromptedObjects(prompt, [item])


def _words_at(prompt: str, indices: Any) -> str:
    words = prompt.split()
    counted = isinstance(indices, list) and indices and all(whole(i) is not None for i in indices)
    following = counted and all(i == indices[0] + n for n, i in enumerate(indices))
    if not following or indices[0] < 1 or indices[-1] > len(words):
        raise ValueError(
            f"token_inds is {brief(indices)}; it must count neighbouring words of {brief(prompt)} from 1; pass phrase="
        )
    return " ".join(words[i - 1] for i in indices).strip(".,;:")


def read_peekaboo(
    text: Any, order: str = "xyxy", outside: str = "error", broken: str = "error"
) -> list[PromptedObjects]:
    """The records of one of Peekaboo's evaluation sets: `caption`, `subject` and `bboxes`, box t for frame t.

    Boxes are in fractions. Their order is what the sets' page says, x0, y0, x1, y1 (`eval/README.md`, and
    `get_mask_from_bb` of `eval/get_metrics.py`), in all sets but the published LaSOT, which has x0, x1, y0, y1. No
    single record can tell, so the order is an option.

    Args:
        order: "xyxy", or "xxyy" as LaSOT has it.
        outside: "error" refuses boxes that leave the picture, "clip" cuts them at its border.
        broken: "error" refuses a set with a bad record, "skip" leaves such records out: the published SSv2 has points
            in place of boxes where its detector found nothing.

    Raises:
        ValueError: text that is no JSON, or a record of another form or with a bad box, naming record, frame and side.
    """
    if order not in PEEKABOO_ORDERS:
        raise ValueError(f"order={brief(order)}; choose from {', '.join(PEEKABOO_ORDERS)}")
    if broken not in ("error", "skip"):
        raise ValueError(f"broken={brief(broken)}; choose from error, skip")
    check_outside(outside)
    data = json_of(text, "the set")
    if not isinstance(data, list) or not data:
        raise ValueError("the set must be a list of records")
    found = []
    for n, record in enumerate(data):
        try:
            found.append(_record(record, n, order, outside))
        except ValueError as error:
            if broken == "error":
                raise ValueError(f"record {n}{error}") from None
    if not found:
        raise ValueError(f"none of the {len(data)} records is one of Peekaboo's in the order {order}")
    return found


def _record(record: Any, n: int, order: str, outside: str) -> PromptedObjects:
    for field in ("caption", "subject", "bboxes"):
        if not isinstance(record, dict) or field not in record:
            raise ValueError(f" has no {field!r}")
    for field in ("caption", "subject"):
        if not isinstance(record[field], str) or not record[field].strip():
            raise ValueError(f": {field} is {brief(record[field])}; it must be text")
    boxes = record["bboxes"]
    if not isinstance(boxes, list) or not all(isinstance(box, list) for box in boxes):
        raise ValueError(f": bboxes is {brief(boxes)}; it must be a list of boxes, one a frame")
    try:
        item = _ordered(boxes, record["subject"].strip(), order, outside)
    except ValueError as error:
        other = next(name for name in PEEKABOO_ORDERS if name != order)
        try:
            _ordered(boxes, record["subject"].strip(), other, outside)
        except ValueError:
            raise ValueError(f": {error}") from None
        raise ValueError(f": {error}; it fits order={other!r}") from None
    return PromptedObjects(record["caption"].strip(), [item], n)


def _ordered(boxes: list[list[Any]], subject: str, order: str, outside: str) -> MotionObject:
    rows = array(boxes, 4, "bboxes")
    if rows.ndim != 2:
        raise ValueError(f"bboxes has shape {rows.shape}; it must be a list of boxes, one a frame")
    rows = rows[:, list(PEEKABOO_ORDERS[order])]
    if outside == "clip":
        rows = rows.clip(0, 1)
    item = MotionObject(subject, rows, keyframes=range(len(rows)))
    _checked(item)
    return MotionObject(subject, rows)


def read_bbox(
    data: Any,
    phrase: str | Sequence[str],
    canvas: Sequence[float],
    outside: str = "error",
    box_format: str | None = None,
    num_frames: int | None = None,
) -> list[MotionObject]:
    """Boxes of ComfyUI nodes in pixels of the canvas: core's BOUNDING_BOX, KJNodes' BBOX.

    A box is a dict that names its sides: x, y, width, height (core), corners (x0, y0, x1, y1; x1, y1, x2, y2; xmin,
    ..; left, top, right, bottom) or startX, startY, endX, endY as KJNodes' points editor keeps them, in any order. Or
    it is four numbers, of which nothing can be told: KJNodes' points editor lists corners unless it is set to xywh
    (`PointsEditor` of `curve_nodes.py`), its crop nodes list left, top, width, height (`normalize_bboxes` of
    `utility.py`). Then `box_format` must say it.

    With one phrase, a single box holds for the clip and several are one for each frame. With several phrases there is
    one box for each phrase, as drawn, which holds for the clip; or, in lists of lists, such boxes for each frame.

    Args:
        data: a box, a list of boxes, a list of lists of boxes, or an array or tensor of them, of any precision.
        phrase: the object's words, or those of each object.
        canvas: width and height.
        outside: "error" refuses boxes that leave the canvas, "clip" cuts them at its border.
        box_format: "xywh" or "xyxy", for boxes of four numbers.
        num_frames: of the clip; several boxes for one phrase are then counted here.

    Raises:
        ValueError: another layout, boxes of which the format isn't known, a bad box, or another number of boxes; it
            names frame and box.
    """
    if box_format is not None and box_format not in BOX_ORDERS:
        raise ValueError(f"box_format={brief(box_format)}; choose from {', '.join(BOX_ORDERS)}")
    check_outside(outside)
    width, height = pair(canvas, "canvas")
    phrases = [phrase] if isinstance(phrase, str) else list(phrase) if isinstance(phrase, Sequence) else []
    if not phrases:
        raise ValueError(f"phrase is {brief(phrase)}; give the object's words, or those of each object")
    count = None if num_frames is None else frame_count(num_frames)
    rows = _rows(data, len(phrases))
    if count is not None and len(rows) not in (1, count):
        raise ValueError(
            f"BBOX has {len(rows)} boxes for {count} frames: give one for the clip, one for each frame, or, if each "
            "is a thing of its own, as many phrases as boxes"
        )
    sides = np.array([[_corners(box, box_format, f"BBOX, frame {t}") for box in row] for t, row in enumerate(rows)])
    not_fractions(sides, (width, height), "BBOX")
    sides = sides / (width, height, width, height)
    if outside == "clip":
        sides = sides.clip(0, 1)
    found = []
    for n, words in enumerate(phrases):
        for t, box in enumerate(sides[:, n]):
            checked_box(box, f"BBOX, frame {t}" if len(phrases) == 1 else f"BBOX, frame {t}, box {n}")
        found.append(MotionObject(words, sides[0, n] if len(rows) == 1 else sides[:, n]))
    return found


def _rows(data: Any, objects: int) -> list[list[Any]]:
    """The boxes of each frame, one for each object; a single row for boxes that hold."""
    if isinstance(data, str | bytes):
        data = json_of(data, "BBOX")
    data = _listed(data)
    if _is_box(data):
        data = [data]
    if not isinstance(data, list) or not data:
        raise ValueError(f"BBOX is {brief(data)}; it must be a list of boxes")
    nested = [not _is_box(row) and isinstance(row, list) and all(map(_is_box, row)) for row in data]
    if all(nested):
        rows = data
    elif objects > 1:
        rows = [data]
    else:
        rows = [[row] for row in data]
    for t, row in enumerate(rows):
        if len(row) != objects:
            raise ValueError(f"BBOX, frame {t} has {len(row)} boxes for {objects} phrases; give one for each")
        for box in row:
            if isinstance(box, list) and len(box) != 4 or not isinstance(box, list | Mapping):
                raise ValueError(f"BBOX, frame {t} is {brief(box)}; it must be x, y, width, height, or two corners")
    return rows


def _listed(data: Any) -> Any:
    """Lists in place of arrays, tensors and tuples, also inside lists."""
    if isinstance(data, torch.Tensor):
        data = data.detach().cpu()
        return (data.double() if data.is_floating_point() else data).tolist()
    if isinstance(data, np.ndarray):
        return data.tolist()
    return [_listed(value) for value in data] if isinstance(data, list | tuple) else data


def _is_box(value: Any) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, list) and bool(value) and not any(isinstance(side, list | Mapping) for side in value)
    )


def _corners(box: Any, box_format: str | None, name: str) -> list[float]:
    """x0, y0, x1, y1 in pixels."""
    form, named = box_format, None
    if isinstance(box, Mapping):
        kinds = [("xywh", fields) for fields in _SIZES] + [("xyxy", fields) for fields in _CORNERS]
        kinds.append(("drawn", _DRAWN))
        form, named = next(((kind, fields) for kind, fields in kinds if all(f in box for f in fields)), (None, None))
        if named is None:
            raise ValueError(f"{name} is {brief(box)}; it must have x, y, width, height, or two corners")
    elif form is None:
        raise ValueError(
            f"{name} is {brief(box)}, four numbers that may be x, y, width, height or two corners; say which by "
            "box_format='xywh' or 'xyxy' (KJNodes' points editor lists corners unless it is set to xywh)"
        )
    values = [real(side) for side in ([box[field] for field in named] if named else box)]
    if None in values:
        raise ValueError(f"{name} is {brief(box)}; its sides must be finite numbers")
    a, b, c, d = values
    if form == "xywh":
        return [a, b, a + c, b + d]
    return [min(a, c), min(b, d), max(a, c), max(b, d)] if form == "drawn" else [a, b, c, d]


def checked_box(box: Any, name: str) -> None:
    """ValueError unless `box` is one of a `MotionObject`, in its words."""
    try:
        flat = isinstance(box, np.ndarray) or isinstance(box, list) and not any(isinstance(s, list) for s in box)
        if not flat or array(box, 4, "the box").ndim != 1:
            raise ValueError(f"the box is {brief(box)}; it must be four numbers")
        MotionObject("box", box).key_boxes()
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def check_outside(outside: Any) -> None:
    if outside not in ("error", "clip"):
        raise ValueError(f"outside={brief(outside)}; choose from error, clip")
