"""What a counterfactual changed: the entries that were swapped, and a picture of them."""

import math
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from diffusers.utils import BaseOutput

CELL, GAP = 12, 1  # pixels
GROUND, KEPT = (255, 255, 255), (222, 222, 222)
FIRST, LAST = np.array([178.0, 24.0, 43.0]), np.array([253.0, 219.0, 199.0])  # of the swapped ones, by their order


@dataclass
class CPLExplanation(BaseOutput):
    """Result of `CPLPipeline.explain`; its tuple form holds the same values in this order.

    Args:
        mask: float32 `(d,)`, one where the positive picture's entry was replaced by the negative's.
        feature: the counterfactual feature, unit float32 `(d,)`.
        flipped: whether the negative text won. Not guaranteed: see `solver`.
        sparsity: share of the entries that were swapped.
        swapped: the entries in the order of swapping, most telling first.
        image: one square per entry, row by row; grey was kept, red was swapped, the darker the earlier.
    """

    mask: torch.Tensor
    feature: torch.Tensor
    flipped: bool
    sparsity: float
    swapped: list[int]
    image: PIL.Image.Image


def draw_swaps(size: int, swapped: list[int]) -> PIL.Image.Image:
    """The picture that `CPLExplanation.image` describes, for `size` entries."""
    columns = math.ceil(math.sqrt(size))
    step = CELL + GAP
    rows = math.ceil(size / columns)
    picture = np.full((rows * step + GAP, columns * step + GAP, 3), GROUND, np.uint8)
    colours = {entry: FIRST + (LAST - FIRST) * n / max(1, len(swapped) - 1) for n, entry in enumerate(swapped)}
    for entry in range(size):
        top, left = GAP + entry // columns * step, GAP + entry % columns * step
        picture[top : top + CELL, left : left + CELL] = np.round(colours.get(entry, KEPT))
    return PIL.Image.fromarray(picture)
