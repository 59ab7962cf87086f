"""Whether a model is right as often as it says."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from wm_pipelines.evaluation.statistics.checks import count, probabilities, zeros_and_ones

Binning = Literal["width", "mass"]


class Bin(NamedTuple):
    """Items whose confidence lies above `low` and up to `high` (the first bin includes its `low`).

    `confidence` and `accuracy` are their means, None where there is no item.
    """

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


def brier_score(confidences: np.ndarray | Sequence[float], correct: np.ndarray | Sequence[bool]) -> float:
    """Mean of (confidence - correct)² (Brier 1950, for two outcomes): 0 is best, always 1/2 gives 1/4.

    Args:
        confidences: `(n,)` in [0, 1]. correct: `(n,)`, 0 or 1.

    Raises:
        ValueError: another shape, two lengths, no item, or values out of range.
    """
    confidences = probabilities("confidences", confidences)
    return float(np.square(confidences - zeros_and_ones("correct", correct, len(confidences))).mean())


def reliability_table(
    confidences: np.ndarray | Sequence[float],
    correct: np.ndarray | Sequence[bool],
    bins: int = 15,
    binning: Binning = "width",
) -> list[Bin]:
    """Confidence beside accuracy, bin by bin.

    Args:
        confidences: `(n,)` in [0, 1]. correct: `(n,)`, 0 or 1. bins: 15 as in Guo et al. (1706.04599).
        binning: "width" cuts [0, 1] into equal parts. "mass" cuts at quantiles, so that each bin holds about n / bins
            items; equal confidences stay together, and bins may then be empty.

    Raises:
        ValueError: another shape, two lengths, no item, values out of range, no bin, or another binning.
    """
    confidences = probabilities("confidences", confidences)
    correct = zeros_and_ones("correct", correct, len(confidences))
    bins, n = count("bins", bins, 1), len(confidences)
    if binning == "width":
        edges = np.arange(bins + 1) / bins
    elif binning == "mass":
        ends = np.maximum(np.arange(bins + 1) * n + bins - 1, bins) // bins - 1  # of sorted items, rounded up
        edges = np.sort(confidences)[ends]
    else:
        raise ValueError(f"`binning` is {binning!r}; it must be one of {', '.join(get_args(Binning))}")
    place = np.searchsorted(edges[1:-1], confidences, side="left")
    table = []
    for i in range(bins):
        inside = place == i
        held = int(inside.sum())
        means = (float(confidences[inside].mean()), float(correct[inside].mean())) if held else (None, None)
        table.append(Bin(float(edges[i]), float(edges[i + 1]), held, *means))
    return table


def expected_calibration_error(
    confidences: np.ndarray | Sequence[float],
    correct: np.ndarray | Sequence[bool],
    bins: int = 15,
    binning: Binning = "width",
) -> float:
    """Mean over items of |confidence - accuracy| of their bin (Naeini et al. 2015; Guo et al., 1706.04599, eq. 3).

    It depends on the bins and is above 0 for a calibrated model too, the more the fewer items a bin holds. Arguments
    and errors as `reliability_table`.
    """
    table = reliability_table(confidences, correct, bins, binning)
    gaps = [row.n * abs(row.confidence - row.accuracy) for row in table if row.n]
    return sum(gaps) / sum(row.n for row in table)
