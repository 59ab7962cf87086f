"""What detectors of other packs hand on: label -> boxes in pixels, and masks of segments."""

from collections.abc import Sequence
from typing import Any

Boxes = dict[str, list[tuple[float, float, float, float]]]


def boxes_of_bbox(data: Any, labels: Sequence[str], size: tuple[int, int], box_format: str | None) -> Boxes:
    """Boxes of a BBOX, one for each label, which may occur again.

    Args:
        size: height and width of the picture. box_format: "xywh" or "xyxy", for boxes of four numbers.

    Raises:
        ValueError: another number of boxes than of labels, or as `read_bbox`.
    """
    from wm_pipelines.mojito.trajectories.formats.boxes import read_bbox

    height, width = size
    if not labels:
        raise ValueError("bboxes came in, so box_labels must say what each box shows, one line for each")
    found: Boxes = {}
    for item in read_bbox(data, list(labels), (width, height), box_format=box_format, num_frames=1):
        x0, y0, x1, y1 = item.frame_boxes(1)[0].tolist()
        found.setdefault(item.phrase, []).append((x0 * width, y0 * height, x1 * width, y1 * height))
    return found


def boxes_of_segs(segs: Any, size: tuple[int, int], labels: Sequence[str] = ()) -> Boxes:
    """Boxes of a SEGS of the Impact Pack: a pair of (height, width) and segments with `bbox` and `label`.

    Args:
        size: height and width of the picture. labels: in place of the segments' own, one for each.

    Raises:
        ValueError: no such pair, segments of a picture of another size, or another number of labels.
    """
    size_of_segs, segments = _segments(segs)
    if size_of_segs != tuple(size):
        raise ValueError(
            f"segs are of a picture of {size_of_segs[0]} x {size_of_segs[1]}, this one is {size[0]} x {size[1]}"
        )
    found: Boxes = {}
    for label, (_, _, box) in zip(_named(segments, labels, "box_labels"), segments, strict=True):
        found.setdefault(label, []).append(box)
    return found


def masks_of_segs(segs: Any, labels: Sequence[str] = ()) -> list[tuple[str, Any]]:
    """Label and masks of each segment of a SEGS, at the size of its picture: bool `(F, H, W)`.

    The Impact Pack's detectors for video stack a mask for each frame in `cropped_mask`; those for pictures have one.
    Without a mask the box is filled.

    Args:
        labels: in place of the segments' own, one for each.

    Raises:
        ValueError: as `boxes_of_segs`, no segment, or a mask that is not as large as its `crop_region`.
    """
    import torch

    (height, width), segments = _segments(segs)
    if not segments:
        raise ValueError("segs holds no segment: nothing was found in the picture")
    found = []
    for n, (label, (_, segment, box)) in enumerate(zip(_named(segments, labels, "phrases"), segments, strict=True)):
        mask, region = getattr(segment, "cropped_mask", None), getattr(segment, "crop_region", None)
        if mask is None:
            region = [round(side) for side in box]
            mask = torch.ones(region[3] - region[1], region[2] - region[0])
        mask = torch.as_tensor(mask)
        mask = mask[None] if mask.ndim == 2 else mask
        x0, y0, x1, y1 = (int(side) for side in region)
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height) or mask.shape[1:] != (y1 - y0, x1 - x0):
            raise ValueError(
                f"segs, segment {n} ({label!r}) has a mask of {tuple(mask.shape)} for the region {x0}, {y0}, {x1}, "
                f"{y1} of a picture of {height} x {width}"
            )
        whole = torch.zeros(len(mask), height, width, dtype=mask.dtype)
        whole[:, y0:y1, x0:x1] = mask
        found.append((label, whole))
    return found


def _segments(segs: Any) -> tuple[tuple[int, int], list[tuple[str, Any, tuple[float, ...]]]]:
    """The size (height, width) of a SEGS, and its segments with their labels and boxes."""
    try:
        (height, width), segments = segs
        listed = [(str(segment.label), segment, tuple(map(float, segment.bbox))) for segment in segments]
        return (int(height), int(width)), listed
    except (TypeError, ValueError, AttributeError):
        raise ValueError(
            f"segs must be a pair of a size and segments with bbox and label, got {type(segs).__name__}"
        ) from None


def _named(segments: Sequence[tuple[str, Any, Any]], labels: Sequence[str], name: str) -> list[str]:
    """The labels of segments, or those of the widget `name` where it has any."""
    if labels and len(labels) != len(segments):
        raise ValueError(f"{name} has {len(labels)} lines for {len(segments)} segments; give one for each, or none")
    return list(labels) or [label for label, _, _ in segments]
