"""Masks over time as an object: the box around what is set, at each frame."""

import numpy as np
import torch

from wm_pipelines.mojito.trajectories.objects import MotionObject
from wm_pipelines.mojito.trajectories.values import MOST_FRAMES, brief, real


def read_masks(masks: np.ndarray | torch.Tensor, phrase: str, threshold: float = 0.5) -> MotionObject:
    """The object whose place a mask shows at each frame.

    A frame with nothing in its mask is bridged linearly, before the first and after the last it holds; the object
    keeps it as `hidden`.

    Args:
        masks (`(F, H, W)` or `(H, W)`, in [0, 1]): one for each frame; a single one holds for the clip.
        phrase: the object's words.
        threshold: a pixel above it is set; in [0, 1).

    Raises:
        ValueError: another shape, a threshold out of range, values outside [0, 1], or masks in which nothing is set.

    Example:
        >>> masks = torch.zeros(3, 4, 4)
        >>> masks[0, :2, :2] = masks[2, :2, 2:] = 1
        >>> cube = read_masks(masks, "red cube")
        >>> cube.frame_boxes(3)[1].tolist(), cube.hidden
        ([0.25, 0.0, 0.75, 0.5], [1])
    """
    limit = real(threshold)
    if limit is None or not 0 <= limit < 1:
        raise ValueError(f"threshold={brief(threshold)}; a number from 0 to below 1")
    if not isinstance(masks, np.ndarray | torch.Tensor) or masks.ndim not in (2, 3) or not min(masks.shape):
        shape = f"shape {tuple(masks.shape)}" if hasattr(masks, "shape") else brief(masks)
        raise ValueError(f"masks has {shape}; it must be an array (F, H, W), or (H, W)")
    rows = torch.as_tensor(masks).detach().cpu()
    rows = rows if rows.ndim == 3 else rows[None]
    if len(rows) > MOST_FRAMES:
        raise ValueError(f"masks has {len(rows)} frames; a clip has at most {MOST_FRAMES}")
    if rows.dtype != torch.bool and not bool(((rows >= 0) & (rows <= 1)).all()):
        raise ValueError(f"masks runs from {float(rows.min()):g} to {float(rows.max()):g}; masks lie in [0, 1]")
    on = rows > limit
    height, width = on.shape[1:]
    x0, x1 = _ends(on.any(1))
    y0, y1 = _ends(on.any(2))
    seen = np.flatnonzero(on.flatten(1).any(1).numpy())
    if not len(seen):
        raise ValueError(f"masks: no pixel of {len(rows)} masks is above {limit:g}, so {phrase!r} is nowhere")
    boxes = np.stack([x0 / width, y0 / height, x1 / width, y1 / height], axis=1)
    if len(boxes) == 1:
        return MotionObject(phrase, boxes[0])
    every = np.arange(len(boxes))
    boxes = np.stack([np.interp(every, seen, side) for side in boxes[seen].T], axis=1)
    return MotionObject(phrase, boxes, hidden=sorted(set(every.tolist()) - set(seen.tolist())) or None)


def _ends(on: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The first set place of each row of a bool `(F, N)`, and the one behind the last; of an empty row anything."""
    numbers = on.to(torch.uint8)
    return numbers.argmax(1).double().numpy(), (on.shape[1] - numbers.flip(1).argmax(1)).double().numpy()
