"""Decision rules of the benchmarks, on scores alone. A tie is wrong, and so is what could not be scored (NaN)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wm_pipelines.evaluation.statistics import wilson


def choose(scores: np.ndarray) -> np.ndarray:
    """Whether what belongs together fits better than the foil, bool `(N,)`, of scores `(N, 2)`: own, foil.

    An image choice (ComVG, SVO-Probes) or a text choice (VL-CheckList), by what the two columns are.
    """
    scores = _shaped(scores, (2,))
    return scores[:, 0] > scores[:, 1]


def winoground(scores: np.ndarray) -> dict[str, np.ndarray]:
    """Text, image and group score of Winoground (Thrush et al. 2022, equations 1 to 3), bool `(N,)` each.

    Args:
        scores: `(N, 2, 2)`, `scores[n, i, c]` of image i with caption c.
    """
    scores = _shaped(scores, (2, 2))
    text = (scores[:, 0, 0] > scores[:, 0, 1]) & (scores[:, 1, 1] > scores[:, 1, 0])
    image = (scores[:, 0, 0] > scores[:, 1, 0]) & (scores[:, 1, 1] > scores[:, 0, 1])
    return {"text": text, "image": image, "group": text & image}


def recall(order: Sequence[Sequence[int]], truth: Sequence[int], ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Share of captions whose image is among the first k, "R@k" -> value; a caption without candidates is a miss.

    Args:
        order: for each caption, images from best to worst. truth: the right one.

    Raises:
        ValueError: other numbers of captions, or none.
    """
    if len(order) != len(truth) or not len(truth):
        raise ValueError(f"order has {len(order)} captions and truth {len(truth)}; they must be equal and above 0")
    hits = {f"R@{k}": [t in list(row)[:k] for row, t in zip(order, truth, strict=True)] for k in ks}
    return {name: float(np.mean(found)) for name, found in hits.items()}


def ties(scores: np.ndarray) -> int:
    """How many of `(N, 2)` are equal pairs, which every rule above counts as wrong."""
    scores = _shaped(scores, (2,))
    return int((scores[:, 0] == scores[:, 1]).sum())


def by_kind(correct: np.ndarray, kinds: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Accuracy, its Wilson interval of 95 % and count, over all and for each kind of example.

    Raises:
        ValueError: other lengths, or nothing.
    """
    if len(correct) != len(kinds) or not len(kinds):
        raise ValueError(f"{len(correct)} decisions for {len(kinds)} kinds; they must be equal and above 0")
    correct = np.asarray(correct)
    chosen = {"all": correct} | {kind: correct[[k == kind for k in kinds]] for kind in sorted(set(kinds))}
    return {
        kind: {"accuracy": float(own.mean()), "ci95": list(wilson(int(own.sum()), len(own))), "n": len(own)}
        for kind, own in chosen.items()
    }


def _shaped(scores: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    scores = np.asarray(scores, dtype=float)
    if scores.shape[1:] != shape or not len(scores):
        raise ValueError(f"scores must have shape (N, {', '.join(map(str, shape))}), got {scores.shape}")
    return scores
