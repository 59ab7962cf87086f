"""Bringing maps, photos and regions to the output's size without losing what they say."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

FITS: tuple[str, ...] = ("error", "crop", "pad", "stretch")
"""How a picture of another size is treated: refused; scaled to cover and cut; scaled inside and padded; distorted."""

Resize = Callable[[torch.Tensor, tuple[int, int]], torch.Tensor]


def resize_marks(x: torch.Tensor, size: tuple[int, int], background: float = 0.0) -> torch.Tensor:
    """Resize thin marks `(C, h, w)` by adaptive max-pooling of their distance from the background (0 or 1).

    Nearest and area resizing drop or fade one-pixel lines; this keeps each.
    """
    if background > 0.5:
        return 1 - F.adaptive_max_pool2d(1 - x, size)
    return F.adaptive_max_pool2d(x, size)


def resize_photo(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bicubic with antialiasing, clamped to [0, 1]: for photos."""
    return F.interpolate(x[None], size, mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 1)


def resize_depth(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear with antialiasing: for depth."""
    return F.interpolate(x[None], size, mode="bilinear", antialias=True, align_corners=False)[0].clamp(0, 1)


def resize_seg(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Nearest: for palette colours, whose mixtures would mean other regions."""
    return F.interpolate(x[None], size, mode="nearest-exact")[0]


def placement(source: tuple[int, int], target: tuple[int, int], fit: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Scaled size and offset (top, left) of a `source` picture on a `target` canvas; crop offsets are <= 0.

    Raises:
        ValueError: `fit` is "error" and the sizes differ, or it is unknown.
    """
    if fit not in FITS:
        raise ValueError(f"fit={fit!r}; choose from {', '.join(FITS)}")
    if source == target or fit == "stretch":
        return target, (0, 0)
    if fit == "error":
        raise ValueError(f"size {source[0]}x{source[1]} differs from {target[0]}x{target[1]}")
    ratios = (target[0] / source[0], target[1] / source[1])
    scale = max(ratios) if fit == "crop" else min(ratios)
    bound = max if fit == "crop" else min
    # The governing axis is met exactly; rounding may not leave the other a pixel short of (or past) the canvas.
    scaled = tuple(max(1, bound(round(side * scale), want) if ratio != scale else want)
                   for side, want, ratio in zip(source, target, ratios, strict=True))  # fmt: skip
    return scaled, ((target[0] - scaled[0]) // 2, (target[1] - scaled[1]) // 2)


def crop_window(source: tuple[int, int], target: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a `source` picture that are left of it when it is cropped to `target`."""
    scaled, offset = placement(source, target, "crop")
    return tuple(
        slice(-start * side // large, math.ceil((want - start) * side / large))
        for side, large, want, start in zip(source, scaled, target, offset, strict=True)
    )


def place(
    x: torch.Tensor, target: tuple[int, int], fit: str, resize: Resize, fill: float | None = 0.0
) -> tuple[torch.Tensor, tuple[int, int, int, int]]:
    """Place `x` on a canvas of the target size.

    Args:
        x (`torch.Tensor` of shape `(C, h, w)`).
        target: height and width.
        fit: one of `FITS`.
        resize: how to resample.
        fill: the value of padding; None repeats the border, so that an extractor finds no edge there.

    Returns:
        the canvas `(C, H, W)` and the rectangle (top, left, bottom, right) that holds the picture.
    """
    (height, width), (top, left) = placement(tuple(x.shape[-2:]), target, fit)
    if tuple(x.shape[-2:]) != (height, width):
        x = resize(x, (height, width))
    if fit == "crop":
        x = x[:, -top : -top + target[0], -left : -left + target[1]]
        return x.contiguous(), (0, 0, *target)
    borders = (left, target[1] - width - left, top, target[0] - height - top)
    if any(borders):
        mode = {"mode": "constant", "value": fill} if fill is not None else {"mode": "replicate"}
        x = F.pad(x[None], borders, **mode)[0]
    return x.contiguous(), (top, left, top + height, left + width)
