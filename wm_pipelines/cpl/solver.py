"""The greedy counterfactual mask: which entries of a picture's feature to replace until the other text wins.

CPL (arXiv 2210.10362) asks for the smallest such change; its released code finds one greedily, after Goyal et al. 2019
("Counterfactual Visual Explanations"). Greedy is not minimal in general, and need not end in a flip: when every entry
is replaced the feature is the negative's own, which may still prefer the positive text.
"""

from typing import NamedTuple

import numpy as np
import torch

SPACES = ("unit", "raw")
TIE = 1e-12


class Masks(NamedTuple):
    """`mask` float64 `(N, d)` of 0 and 1; `flipped` bool `(N,)`; `swaps`: for each row its entries in order."""

    mask: torch.Tensor
    flipped: torch.Tensor
    swaps: list[list[int]]


def greedy_masks(
    positive: torch.Tensor,
    negative: torch.Tensor,
    positive_text: torch.Tensor,
    negative_text: torch.Tensor,
    mask_space: str = "unit",
) -> Masks:
    """Swap entries of `positive` for those of `negative`, each time the one that makes the negative text likeliest.

    At least one entry is swapped. A row ends when its feature is nearer to the negative text than to the positive one
    (by more than 1e-12), or when all entries are swapped. Equal candidates (within 1e-12) go to the lowest index.
    All in fp64, on the CPU, without gradient: a step costs O(d), since one entry changes the dot product and the norm
    by numbers that are known beforehand.

    Args:
        positive, negative: picture features `(N, d)`. positive_text, negative_text: text features `(N, d)`.
        mask_space: "unit" scales all four to length one first; "raw" (the released code) takes them as they are, so
            that the lengths of the two texts decide, too, when a row ends.

    Raises:
        ValueError: shapes differ, a value is not finite, or `mask_space` is unknown.
    """
    if mask_space not in SPACES:
        raise ValueError(f"mask_space must be one of {', '.join(SPACES)}; got {mask_space!r}")
    named = {
        "positive": positive,
        "negative": negative,
        "positive_text": positive_text,
        "negative_text": negative_text,
    }
    arrays = []
    for name, tensor in named.items():
        if tensor.ndim != 2 or tensor.shape != positive.shape:
            raise ValueError(f"{name} must have the shape {tuple(positive.shape)} (N, d), got {tuple(tensor.shape)}")
        array = tensor.detach().cpu().double().numpy()
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds values that are not finite")
        if mask_space == "unit":
            array = array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-300)
        arrays.append(array)
    mask = torch.zeros(positive.shape, dtype=torch.float64)
    flipped, swaps = [], []
    for row, parts in enumerate(zip(*arrays, strict=True)):
        order, flip = _swap(*parts)
        mask[row, order] = 1
        flipped.append(flip)
        swaps.append(order)
    return Masks(mask, torch.tensor(flipped), swaps)


def counterfactual(mask: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """(1 - u) v + u v^- of unit features, scaled to length one (the paper's equation 2)."""
    mask = mask.to(positive)
    return torch.nn.functional.normalize((1 - mask) * positive + mask * negative, dim=-1)


def _swap(v: np.ndarray, other: np.ndarray, text: np.ndarray, other_text: np.ndarray) -> tuple[list[int], bool]:
    """Entries in the order of swapping, and whether the negative text has won."""
    gain, rival = (other - v) * other_text, (other - v) * text  # of the dot products with both texts
    growth = other * other - v * v  # of the squared norm
    dot, lead, square = v @ other_text, v @ text, v @ v
    order: list[int] = []
    while len(order) < len(v):
        scores = (dot + gain) / np.sqrt(np.maximum(square + growth, 1e-300))
        best = int((scores >= scores.max() - TIE).argmax())
        order.append(best)
        dot, lead, square = dot + gain[best], lead + rival[best], square + growth[best]
        gain[best] = -np.inf  # never again
        if dot - lead > TIE * np.sqrt(max(square, 1e-300)):
            return order, True
    return order, False
