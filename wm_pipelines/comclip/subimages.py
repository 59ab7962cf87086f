"""What a component sees of the picture: the rectangles of its boxes, black outside (authors' code, our reading)."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from wm_pipelines.media.boxes import Box

FITS = ("pad", "stretch", "crop")


def mask_of(boxes: Sequence[Box], size: tuple[int, int]) -> torch.Tensor:
    """Where any of the boxes is, bool `(H, W)`; rectangles include both corners, fractions of a pixel cut off."""
    height, width = size
    mask = torch.zeros(height, width, dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        mask[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] = True
    return mask


def subimage(picture: torch.Tensor, boxes: Sequence[Box] | None) -> torch.Tensor:
    """The picture inside the union of `boxes`, black outside, as large as the picture.

    Args:
        picture: float32 `(3, H, W)` in [0, 1].
        boxes: absolute pixels; None keeps the whole picture, an empty sequence gives a black one.
    """
    if boxes is None:
        return picture
    return picture * mask_of(boxes, tuple(picture.shape[-2:]))


def fit_square(picture: torch.Tensor, fit: str) -> torch.Tensor:
    """A picture made square for a matcher without losing what its boxes show.

    Args:
        picture: `(3, H, W)`.
        fit: "pad" (centred, black around: nothing is lost or bent), "stretch" (unchanged here, the resize bends it),
            "crop" (the centred square, as CLIP's own processor does: what lies outside is lost).
    """
    height, width = picture.shape[-2:]
    if height == width or fit == "stretch":
        return picture
    if fit == "pad":
        side = max(height, width)
        left, top = (side - width) // 2, (side - height) // 2
        return functional.pad(picture, (left, side - width - left, top, side - height - top))
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return picture[:, top : top + side, left : left + side]
