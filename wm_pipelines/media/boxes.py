"""Boxes of labels in a picture: absolute pixels (x0, y0, x1, y1), checked, never repaired."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch

Box = tuple[float, float, float, float]
Boxes = Mapping[str, Sequence[Sequence[float]]]

FORMATS = ("xyxy", "xywh", "xyxy_norm", "cxcywh_norm")
ROUNDING = 1.0  # pixels that a detector's rounding may put a side outside the picture


def read_boxes(boxes: Boxes, size: tuple[int, int], box_format: str = "xyxy") -> dict[str, list[Box]]:
    """Label -> boxes in absolute pixels (x0, y0, x1, y1), corners included.

    Args:
        boxes: label -> list of boxes, as GRiT's dense captions are stored.
        size: (height, width) of the picture in pixels.
        box_format: "xyxy" and "xywh" in pixels; "xyxy_norm" and "cxcywh_norm" as fractions of width and height.

    Raises:
        ValueError: another layout or format, NaN, a reversed box, one outside the picture, or one that looks
            normalised although `box_format` says pixels.
    """
    if box_format not in FORMATS:
        raise ValueError(f"box_format={box_format!r}; choose from {', '.join(FORMATS)}")
    if not isinstance(boxes, Mapping):
        raise ValueError(f"boxes must map labels to lists of boxes, got {type(boxes).__name__}")
    found: dict[str, list[Box]] = {}
    for label, listed in boxes.items():
        if not isinstance(label, str) or not label.strip():
            raise ValueError(f"a label must be a non-empty string, got {label!r}")
        found[label] = [_numbers(box, label) for box in _listed(listed, label)]
    normalised = box_format.endswith("_norm")
    height, width = size
    largest = max((abs(value) for listed in found.values() for box in listed for value in box), default=2.0)
    # in a picture of one pixel every box is that small
    if not normalised and largest <= 1.0 and max(size) > 2:
        raise ValueError(f"boxes look normalised (max ≤1.0, got {largest:g}); pass box_format='cxcywh_norm'")
    if normalised and largest > 1.0 + 1e-3:
        raise ValueError(f"box_format={box_format!r}, but the boxes run to {largest:g}; normalised ones end at 1")
    return {
        label: [_inside(_pixels(box, box_format, height, width), label, height, width) for box in listed]
        for label, listed in found.items()
    }


def inside_crop(box: Box, size: tuple[int, int]) -> None:
    """ValueError if a box lies outside the centred square that CLIP's crop keeps of a picture of (height, width)."""
    height, width = size
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    x0, y0, x1, y1 = box
    if x0 >= left + side or x1 < left or y0 >= top + side or y1 < top:
        raise ValueError(
            f"box {_text(box)} lies outside the crop (x {left:g} to {left + side:g}, y {top:g} to {top + side:g}) "
            "that fit='crop' keeps; use fit='pad' or fit='stretch'"
        )


def box_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of boxes (..., 4), pair by pair; NaN where a box is NaN."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    area = [(x[..., 2:] - x[..., :2]).prod(-1) for x in (a, b)]
    return inter / (area[0] + area[1] - inter)


def mask_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of bool masks (..., H, W), pair by pair; 0 where both are empty."""
    return (a & b).sum((-2, -1)) / (a | b).sum((-2, -1)).clamp_min(1)


def _listed(listed: Any, label: str) -> list[Any]:
    if isinstance(listed, torch.Tensor):
        listed = listed.tolist()
    if isinstance(listed, str | Mapping) or not hasattr(listed, "__iter__"):
        raise ValueError(f"boxes of {label!r} must be a list of four numbers each, got {listed!r}")
    return list(listed)


def _numbers(box: Any, label: str) -> Box:
    values = box.tolist() if hasattr(box, "tolist") else box
    if not isinstance(values, list | tuple) or len(values) != 4:
        raise ValueError(f"a box of {label!r} must be four numbers, got {box!r}")
    if not all(isinstance(v, Real) and not isinstance(v, bool) and v == v and abs(v) != float("inf") for v in values):
        raise ValueError(f"a box of {label!r} must be four finite numbers, got {box!r}")
    return tuple(float(value) for value in values)


def _pixels(box: Box, box_format: str, height: int, width: int) -> Box:
    a, b, c, d = box
    if box_format == "xywh":
        return a, b, a + c, b + d
    if box_format == "xyxy_norm":
        return a * width, b * height, c * width, d * height
    if box_format == "cxcywh_norm":
        return (a - c / 2) * width, (b - d / 2) * height, (a + c / 2) * width, (b + d / 2) * height
    return box


def _inside(box: Box, label: str, height: int, width: int) -> Box:
    x0, y0, x1, y1 = box
    if x0 > x1:
        raise ValueError(f"box (x0={x0:g},x1={x1:g}) of {label!r} is reversed")
    if y0 > y1:
        raise ValueError(f"box (y0={y0:g},y1={y1:g}) of {label!r} is reversed")
    over = x0 < -ROUNDING or y0 < -ROUNDING or x1 > width + ROUNDING or y1 > height + ROUNDING
    if over or x0 >= width or y0 >= height or x1 < 0 or y1 < 0:
        raise ValueError(f"box {_text(box)} of {label!r} lies outside the picture of {width}x{height} pixels")
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))


def _text(box: Box) -> str:
    return "(" + ", ".join(f"{value:g}" for value in box) + ")"
