"""Two models on the same items: how they differ, whether by chance, and what difference could be seen at all."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from wm_pipelines.evaluation.statistics.checks import (
    count,
    is_number,
    numbers,
    probabilities,
    share,
    zeros_and_ones,
)
from wm_pipelines.evaluation.statistics.means import Mean, clustered_mean

Variant = Literal["exact", "mid-p"]


class McNemar(NamedTuple):
    """Items that only the first and only the second got right, and the two-sided p that chance splits them so."""

    only_first: int
    only_second: int
    p: float


def mcnemar(
    first: np.ndarray | Sequence[bool], second: np.ndarray | Sequence[bool], variant: Variant = "exact"
) -> McNemar:
    """McNemar's test (1947) of two models on the same items, by the binomial distribution.

    Items are taken to be independent: where they come in clusters, read `paired_difference` beside it.

    Args:
        first, second: `(n,)`, 0 or 1 for each item. variant: as for `mcnemar_p`.

    Raises:
        ValueError: another shape, two lengths, no item, or something else than 0 and 1.
    """
    first = zeros_and_ones("first", first)
    second = zeros_and_ones("second", second, len(first))
    only_first, only_second = int((first > second).sum()), int((first < second).sum())
    return McNemar(only_first, only_second, mcnemar_p(only_first, only_second, variant))


def mcnemar_p(only_first: int, only_second: int, variant: Variant = "exact") -> float:
    """Two-sided p of McNemar's test for counts of discordant items; 1 where there are none.

    Args:
        variant: "exact" is twice the smaller binomial tail, at most 1. "mid-p" counts the observed split by half
            (Fagerland, Lydersen and Laake 2013): less conservative, though it holds its level only nearly.

    Raises:
        ValueError: a count below 0, or another variant.
    """
    from scipy.special import bdtr

    counts = count("only_first", only_first, 0), count("only_second", only_second, 0)
    if variant not in get_args(Variant):
        raise ValueError(f"`variant` is {variant!r}; it must be one of {', '.join(get_args(Variant))}")
    fewer, n = min(counts), sum(counts)
    if n == 0:
        return 1.0
    at_most = float(bdtr(fewer, n, 0.5))
    below = float(bdtr(fewer - 1, n, 0.5)) if fewer else 0.0
    if variant == "exact":
        return min(1.0, 2 * at_most)
    return at_most + below if 2 * fewer < n else 1 - (at_most - below) / 2


def paired_difference(
    first: np.ndarray | Sequence[float],
    second: np.ndarray | Sequence[float],
    clusters: Sequence[str] | Sequence[int] | None = None,
    confidence: float = 0.95,
) -> Mean:
    """The mean of first - second over the same items, with its error over clusters.

    Args:
        first, second: `(n,)`, finite. clusters, confidence: as for `clustered_mean`.

    Raises:
        ValueError: two lengths, or as `clustered_mean`.
    """
    first = numbers("first", first)
    return clustered_mean(first - numbers("second", second, len(first)), clusters, confidence)


def holm(p_values: np.ndarray | Sequence[float]) -> list[float]:
    """Holm's adjustment (1979): reject each that is at most alpha, and the chance of one false rejection is alpha.

    The k-th smallest of m becomes (m - k + 1) p, at least as large as those before it and at most 1.

    Args:
        p_values: `(m,)`, in [0, 1].

    Returns:
        In the order given.

    Raises:
        ValueError: another shape, none, NaN, or values outside [0, 1].
    """
    p = probabilities("p_values", p_values)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()


def detectable_gap(
    n: int, discordance: float, power: float = 0.8, alpha: float = 0.05, design_effect: float = 1.0
) -> float:
    """The smallest true difference of two shares that a paired two-sided test finds with this power.

    (z_{1-alpha/2} + z_power) sqrt(discordance design_effect / n), which is 2.80 sqrt(discordance / n) by default: the
    normal approximation with the variance that holds where there is no difference, so a little too large. A gap
    can't exceed the discordance: where this one does, `n` is too small for any.

    Args:
        n: items. discordance: the share on which one model is right and the other wrong, in (0, 1].
        design_effect: of the difference, as `paired_difference` gives it; above 0.

    Raises:
        ValueError: an argument out of its range.
    """
    from scipy.special import ndtri

    n, alpha = count("n", n, 1), share("alpha", alpha)
    power = share("power", power, alpha)
    if discordance != 1:
        discordance = share("discordance", discordance)
    if not is_number(design_effect) or not 0 < design_effect < math.inf:
        raise ValueError(f"`design_effect` is {design_effect!r}; it must be above 0")
    return float(ndtri(1 - alpha / 2) + ndtri(power)) * math.sqrt(discordance * design_effect / n)
