"""The augmentation of CoOp's recipe: a random part of the picture at a random shape, flipped half of the time."""

import math

import numpy as np
import torch
from torch.nn import functional

AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)


def crop_and_flip(picture: torch.Tensor, size: int, rng: np.random.Generator) -> torch.Tensor:
    """A random crop of `(3, H, W)` in [0, 1], resized to `(3, size, size)` (bicubic), mirrored half of the time."""
    top, left, height, width = _crop(picture.shape[1], picture.shape[2], rng)
    part = picture[None, :, top : top + height, left : left + width]
    part = functional.interpolate(part, (size, size), mode="bicubic", antialias=True, align_corners=False)
    part = part.clamp(0, 1)[0]
    return part.flip(-1) if rng.random() < 0.5 else part


def _crop(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width: area 8 to 100 %, sides 3:4 to 4:3; the whole picture if ten draws don't fit."""
    for _ in range(10):
        area = height * width * rng.uniform(*AREA)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        h, w = max(1, round(math.sqrt(area / ratio))), max(1, round(math.sqrt(area * ratio)))
        if h <= height and w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    return 0, 0, height, width
