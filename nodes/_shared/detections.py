"""What detectors of other packs hand on, as label -> boxes in pixels."""

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
    try:
        (height, width), segments = segs
        listed = [(str(segment.label), tuple(float(side) for side in segment.bbox)) for segment in segments]
        size_of_segs = int(height), int(width)
    except (TypeError, ValueError, AttributeError):
        raise ValueError(
            f"segs must be a pair of a size and segments with bbox and label, got {type(segs).__name__}"
        ) from None
    if size_of_segs != tuple(size):
        raise ValueError(
            f"segs are of a picture of {size_of_segs[0]} x {size_of_segs[1]}, this one is {size[0]} x {size[1]}"
        )
    if labels and len(labels) != len(listed):
        raise ValueError(f"box_labels has {len(labels)} lines for {len(listed)} segments; give one for each, or none")
    found: Boxes = {}
    for n, (label, box) in enumerate(listed):
        found.setdefault(labels[n] if labels else label, []).append(box)
    return found
