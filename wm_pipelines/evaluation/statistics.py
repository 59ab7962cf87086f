"""Bootstrap intervals over seeds and the samples that each seed was measured on."""

import numpy as np

from wm_pipelines.runtime.random import keyed


def hierarchical(values: np.ndarray, draws: int = 10_000) -> np.ndarray:
    """Bootstrap means of `values` (seeds, scenes): seeds are drawn with replacement, then scenes within each.

    NaN (a scene without the quantity) is left out of a mean. Returns (draws,). The stream depends on the sizes only,
    so two quantities over the same seeds and scenes are resampled alike.
    """
    seeds, scenes = values.shape
    rng = keyed("hierarchical bootstrap", seeds, scenes)
    means = np.empty(draws)
    for start in range(0, draws, 500):
        count = min(500, draws - start)
        rows = rng.integers(seeds, size=(count, seeds, 1))
        columns = rng.integers(scenes, size=(count, seeds, scenes))
        means[start : start + count] = np.nanmean(values[rows, columns], axis=(1, 2))
    return means


def interval(draws: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of bootstrap draws."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)
