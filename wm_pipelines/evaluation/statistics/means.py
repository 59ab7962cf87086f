"""A share with its interval, and a mean with its error when items come in clusters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wm_pipelines.evaluation.statistics.checks import cluster_numbers, count, numbers, share


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (1927) of the share `successes` / `n`: (low, high) in [0, 1].

    Centre (p + z²/2n) / (1 + z²/n), half-width z sqrt(p(1-p)/n + z²/4n²) / (1 + z²/n).

    Raises:
        ValueError: `n` below 1, `successes` outside 0 ... n, or `confidence` outside (0, 1).
    """
    from scipy.special import ndtri

    n = count("n", n, 1)
    p = count("successes", successes, 0, n) / n
    z = float(ndtri((1 + share("confidence", confidence)) / 2))
    scale = 1 + z**2 / n
    centre, half = (p + z**2 / (2 * n)) / scale, z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / scale
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


@dataclass(frozen=True)
class Mean:
    """A mean of items that come in clusters.

    Args:
        value: the mean over items. error: its standard error between clusters. low, high: its interval.
        n: items. clusters: how many.
        design_effect: square of `error` over that of items drawn one by one; None where all items are equal.
    """

    value: float
    error: float
    low: float
    high: float
    n: int
    clusters: int
    design_effect: float | None


def clustered_mean(
    values: np.ndarray | Sequence[float],
    clusters: Sequence[str] | Sequence[int] | None = None,
    confidence: float = 0.95,
) -> Mean:
    """The mean of `values` with its error over clusters (Liang and Zeger 1986, as in Miller, 2411.00640).

    error = sqrt(sum_g (sum_{i in g} (x_i - mean))²) / n. The interval is the mean +- the quantile of Student's t with
    one degree of freedom less than there are clusters; it is not cut to [0, 1]. Where all values are equal the error
    is 0, which says little: give a share that is 0 or 1 its `wilson` interval.

    Args:
        values: `(n,)`, finite: 0 and 1, or scores.
        clusters: the label of each item's cluster, text or integers; each item is one of its own without.

    Raises:
        ValueError: another shape, no value, NaN, lengths or labels that don't fit, fewer than two clusters, or
            `confidence` outside (0, 1).
    """
    from scipy.special import stdtrit

    values = numbers("values", values)
    n, of = len(values), cluster_numbers(clusters, len(values))
    groups, confidence = int(of.max()) + 1, share("confidence", confidence)
    if (values == values[0]).all():
        return Mean(float(values[0]), 0.0, float(values[0]), float(values[0]), n, groups, None)
    mean = float(values.mean())
    sums = np.bincount(of, values - mean)
    error, alone = (math.sqrt(float(np.square(x).sum())) / n for x in (sums, values - mean))
    half = float(stdtrit(groups - 1, (1 + confidence) / 2)) * error
    return Mean(mean, error, mean - half, mean + half, n, groups, (error / alone) ** 2)
