"""Bootstrap draws over seeds and the samples that each was measured on, and over clusters of items."""

from collections.abc import Callable, Sequence

import numpy as np

from wm_pipelines.evaluation.statistics.checks import cluster_numbers, count, numbers
from wm_pipelines.runtime.random import keyed


def hierarchical(values: np.ndarray, draws: int = 10_000) -> np.ndarray:
    """Bootstrap means of `values` (seeds, scenes): seeds are drawn with replacement, then scenes within each.

    NaN (a scene without the quantity) is left out of a mean; a draw without a number is NaN. Returns (draws,). The
    stream depends on the sizes only, so two quantities over the same seeds and scenes are resampled alike.
    """
    seeds, scenes = values.shape
    rng = keyed("hierarchical bootstrap", seeds, scenes)
    means = np.empty(draws)
    for start in range(0, draws, 500):
        some = min(500, draws - start)
        rows = rng.integers(seeds, size=(some, seeds, 1))
        columns = rng.integers(scenes, size=(some, seeds, scenes))
        drawn = values[rows, columns]
        with np.errstate(invalid="ignore"):  # 0 / 0
            means[start : start + some] = np.nansum(drawn, axis=(1, 2)) / (~np.isnan(drawn)).sum((1, 2))
    return means


def cluster_bootstrap(
    values: np.ndarray | Sequence[float],
    clusters: Sequence[str] | Sequence[int] | None = None,
    draws: int = 2000,
    statistic: Callable[[np.ndarray], float] | None = None,
) -> np.ndarray:
    """Bootstrap draws of a statistic of `values` when whole clusters are drawn with replacement.

    As many clusters as there are, with all their items each time (Davison and Hinkley 1997, section 3.8, strategy 1).
    The stream depends on the number of clusters only: two models over the same items are resampled alike, and the
    order of the items does not matter.

    Args:
        values: `(n,)`, finite; with a `statistic` `(n, ...)`, whatever it takes.
        clusters: the label of each item's cluster, such as its video: text or integers, at least two of them; each
            item is one of its own without.
        statistic: of the drawn rows of `values`; their mean without one, which is faster.

    Returns:
        `(draws,)`; `interval` makes an interval of them.

    Raises:
        ValueError: another shape, no value, NaN, lengths or labels that don't fit, or no draw.
    """
    values = numbers("values", values) if statistic is None else np.atleast_1d(values)
    of = cluster_numbers(clusters, len(values))
    groups, draws = int(of.max()) + 1, count("draws", draws, 1)
    rng = keyed("cluster bootstrap", groups)
    sizes = np.bincount(of)
    if statistic is None:
        sums = np.bincount(of, values)
        picks = (rng.integers(groups, size=groups) for _ in range(draws))
        return np.array([sums[some].sum() / sizes[some].sum() for some in picks])
    order = np.argsort(of, kind="stable")  # items of one cluster lie together
    firsts = np.cumsum(sizes) - sizes
    found = np.empty(draws)
    for draw in range(draws):
        some = rng.integers(groups, size=groups)
        ends = np.cumsum(sizes[some])
        within = np.arange(ends[-1]) - np.repeat(ends - sizes[some], sizes[some])
        found[draw] = statistic(values[order[np.repeat(firsts[some], sizes[some]) + within]])
    return found


def interval(draws: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of bootstrap draws."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)
