"""Two models on the same items, against published tables and statsmodels."""

import math

import numpy as np
import pytest

from wm_pipelines.evaluation.statistics import (
    clustered_mean,
    detectable_gap,
    holm,
    mcnemar,
    mcnemar_p,
    paired_difference,
    wilson,
)
from wm_pipelines.runtime.random import keyed


def answers(both, only_first, only_second, neither):
    """Two rows of 0 and 1 with these counts."""
    first = [1] * (both + only_first) + [0] * (only_second + neither)
    return first, [1] * both + [0] * only_first + [1] * only_second + [0] * neither


def test_approval_in_two_surveys():
    """Agresti, Categorical Data Analysis (1990), p. 350: 59 % at first, 55 % later; .04 with an error of .0095."""
    from scipy.stats import binomtest

    first, second = answers(794, 150, 86, 570)
    difference = paired_difference(first, second)
    assert [round(x, 4) for x in (difference.value, difference.error)] == [0.04, 0.0095]
    assert [round(x, 2) for x in (difference.low, difference.high)] == [0.02, 0.06]
    found = mcnemar(first, second)
    assert found[:2] == (150, 86) and math.isclose(found.p, binomtest(86, 236).pvalue, rel_tol=1e-9)


def test_airway_hyper_responsiveness_before_and_after():
    """Fagerland, Lydersen and Laake 2013, table 1 and results."""
    first, second = answers(1, 1, 7, 12)
    assert round(mcnemar(first, second).p, 3) == 0.070
    assert round(mcnemar(first, second, "mid-p").p, 3) == 0.039


def test_exact_p_is_statsmodels():
    from statsmodels.stats.contingency_tables import mcnemar as stock

    for counts in ((0, 1), (5, 0), (3, 9), (9, 3), (40, 41), (44, 75), (600, 500)):
        table = [[7, counts[0]], [counts[1], 2]]
        assert math.isclose(mcnemar_p(*counts), stock(table, exact=True).pvalue, rel_tol=1e-9)
        assert mcnemar_p(*counts) == mcnemar_p(*counts[::-1])
        assert 0 < mcnemar_p(*counts, "mid-p") < mcnemar_p(*counts)


@pytest.mark.parametrize("variant", ["exact", "mid-p"])
def test_p_is_the_sum_over_splits_that_are_as_uneven(variant):
    for n in range(0, 9):
        for k in range(n + 1):
            uneven = abs(2 * k - n)
            chances = [(abs(2 * j - n), math.comb(n, j) / 2**n) for j in range(n + 1)]
            above = sum(p for u, p in chances if u > uneven)
            equal = sum(p for u, p in chances if u == uneven)
            expected = above + equal * (1 if variant == "exact" or n == 0 else 0.5)
            assert math.isclose(mcnemar_p(k, n - k, variant), expected, rel_tol=1e-12), (k, n)


def test_models_that_agree_do_not_differ():
    row = [1, 0, 1, 1]
    assert mcnemar(row, row) == (0, 0, 1.0) and mcnemar(row, row, "mid-p").p == 1.0
    assert paired_difference(row, row).value == paired_difference(row, row).error == 0


def test_a_paired_difference_is_the_mean_of_differences():
    rng = keyed("paired")
    first, second, of = rng.normal(size=60), rng.normal(size=60), rng.integers(0, 9, size=60)
    found = paired_difference(first, second, of, confidence=0.8)
    assert found == clustered_mean(first - second, of, confidence=0.8)
    back = paired_difference(second, first, of, confidence=0.8)
    assert (back.value, back.low, back.error) == (-found.value, -found.high, found.error)
    alike = paired_difference(first, 0.9 * first, of)  # what the two share falls out
    assert alike.error < 0.2 * clustered_mean(first, of).error


def test_holm_step_by_step():
    """Of .005, .01, .03, .04 the first two are rejected at .05: 4 x .005, 3 x .01, then 2 x .03 and no further."""
    assert np.allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize("m", [1, 2, 5, 22])
def test_holm_is_statsmodels(m):
    from statsmodels.stats.multitest import multipletests

    for seed in range(2):
        p = keyed("holm", m, seed).uniform(size=m) ** 3
        p[(seed + 1) % m] = p[0]
        found = holm(p)
        assert np.allclose(found, multipletests(p, method="holm")[1], atol=1e-15)
        assert np.array_equal(np.argsort(found, kind="stable")[0], np.argsort(p, kind="stable")[0])
        assert all(a >= b for a, b in zip(found, p, strict=True))
        order = keyed("order", m, seed).permutation(m)
        assert np.allclose(np.array(found)[order], holm(p[order]))
    assert holm([0.0, 1.0, 1.0]) == [0.0, 1.0, 1.0]


def test_the_detectable_gap_is_that_of_vlm4d():
    assert round(detectable_gap(1816, 0.40), 3) == 0.042  # about four points
    assert detectable_gap(3400, 0.40) > 0.03 > detectable_gap(3500, 0.40)  # three take about 3,500 items
    assert math.isclose(detectable_gap(100, 1.0), 2.8016 / 10, rel_tol=1e-4)


@pytest.mark.parametrize(("n", "discordance", "power", "alpha"), [(400, 0.3, 0.8, 0.05), (900, 0.5, 0.9, 0.01)])
def test_a_gap_that_is_said_to_be_found_is_found(n, discordance, power, alpha):
    """By simulation, with the test that the formula speaks of."""
    gap, rng = detectable_gap(n, discordance, power, alpha), keyed("power", n)
    draws = rng.multinomial(n, [(discordance + gap) / 2, (discordance - gap) / 2, 1 - discordance], size=4000)
    z = np.abs(draws[:, 0] - draws[:, 1]) / np.sqrt(draws[:, 0] + draws[:, 1])
    critical = {0.05: 1.96, 0.01: 2.576}[alpha]
    low, high = wilson(int((z > critical).sum()), 4000, 0.999)
    assert low < power + 0.02 and high > power


def test_a_gap_grows_with_power_and_clusters_and_shrinks_with_items():
    assert detectable_gap(100, 0.4) < detectable_gap(100, 0.4, power=0.9) < detectable_gap(100, 0.4, 0.9, alpha=0.01)
    assert math.isclose(detectable_gap(400, 0.4), detectable_gap(100, 0.4) / 2)
    assert math.isclose(detectable_gap(100, 0.4, design_effect=4.0), 2 * detectable_gap(100, 0.4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mcnemar([1, 0], [1]), "`second` has 1 numbers; 2 are needed"),
        (lambda: mcnemar([1, 2], [1, 0]), "`first` holds 2; it must hold 0 and 1 only"),
        (lambda: mcnemar([1, 0], [0.5, 0]), "`second` holds 0.5"),
        (lambda: mcnemar([1, math.nan], [1, 0]), "`first` holds NaN"),
        (lambda: mcnemar([], []), r"`first` has shape \(0,\)"),
        (lambda: mcnemar([1], [0], "chi2"), "`variant` is 'chi2'; it must be one of exact, mid-p"),
        (lambda: mcnemar_p(-1, 3), "`only_first` is -1; it must be an integer of 0 or more"),
        (lambda: mcnemar_p(1, 3.0), "`only_second` is 3.0"),
        (lambda: paired_difference([1, 0], [1]), "`second` has 1 numbers"),
        (lambda: paired_difference([1, 0], [1, 0], [0]), "`clusters` has 1 labels for 2 items"),
        (lambda: holm([]), r"`p_values` has shape \(0,\)"),
        (lambda: holm([0.1, 1.1]), r"`p_values` holds 1.1; it must lie in \[0, 1\]"),
        (lambda: holm([0.1, -0.1]), "`p_values` holds -0.1"),
        (lambda: holm([math.nan]), "`p_values` holds NaN"),
        (lambda: detectable_gap(0, 0.4), "`n` is 0"),
        (lambda: detectable_gap(10, 0.0), "`discordance` is 0.0; it must lie between 0 and 1"),
        (lambda: detectable_gap(10, 1.5), "`discordance` is 1.5"),
        (lambda: detectable_gap(10, 0.4, power=1.0), "`power` is 1.0; it must lie between 0.05 and 1"),
        (lambda: detectable_gap(10, 0.4, power=0.04), "`power` is 0.04"),
        (lambda: detectable_gap(10, 0.4, alpha=0.0), "`alpha` is 0.0"),
        (lambda: detectable_gap(10, 0.4, design_effect=0.0), "`design_effect` is 0.0; it must be above 0"),
        (lambda: detectable_gap(10, 0.4, design_effect=None), "`design_effect` is None"),
    ],
)
def test_what_can_not_be_compared_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
