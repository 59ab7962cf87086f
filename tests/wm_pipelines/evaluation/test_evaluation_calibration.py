"""Calibration: worked examples, the decomposition of Brier's score, and models that are as right as they say."""

import math

import numpy as np
import pytest

from wm_pipelines.evaluation.statistics import Bin, brier_score, expected_calibration_error, reliability_table
from wm_pipelines.runtime.random import keyed


def test_a_worked_example():
    confidences, correct = [0.95, 0.85, 0.85, 0.55, 0.15], [1, 1, 0, 1, 0]
    table = reliability_table(confidences, correct, bins=5)
    assert [row.n for row in table] == [1, 0, 1, 0, 3]
    assert table[1] == Bin(0.2, 0.4, 0, None, None)
    assert table[4][:3] == (0.8, 1.0, 3) and np.allclose(table[4][3:], [2.65 / 3, 2 / 3])
    assert math.isclose(expected_calibration_error(confidences, correct, bins=5), (0.15 + 0.45 + 0.65) / 5)
    assert math.isclose(brier_score(confidences, correct), (0.05**2 + 0.15**2 + 0.85**2 + 0.45**2 + 0.15**2) / 5)


@pytest.mark.parametrize("bins", [1, 3, 10, 15])
def test_an_edge_belongs_to_the_bin_below_it(bins):
    edges = [k / bins for k in range(bins + 1)]
    table = reliability_table(edges, [0] * len(edges), bins=bins)
    assert [row.n for row in table] == [2] + [1] * (bins - 1)
    assert [row.confidence for row in table][1:] == edges[2:]
    assert [(row.low, row.high) for row in table] == list(zip(edges, edges[1:], strict=False))


@pytest.mark.parametrize(("n", "bins"), [(30, 10), (31, 10), (7, 7), (5, 8), (100, 1), (1, 3)])
def test_bins_of_mass_hold_as_many_items_each(n, bins):
    confidences = keyed("mass", n).permutation(n) / n
    table = reliability_table(confidences, np.ones(n), bins, "mass")
    assert sum(row.n for row in table) == n and len(table) == bins
    assert max(row.n for row in table) - min(row.n for row in table) <= 1
    assert table[0].low == confidences.min() and table[-1].high == confidences.max()


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_equal_confidences_stay_together_and_order_does_not_matter(binning):
    rng = keyed("ties")
    confidences, correct = rng.integers(0, 5, size=200) / 4, rng.integers(0, 2, size=200)
    table = reliability_table(confidences, correct, 8, binning)
    order = rng.permutation(200)
    again = reliability_table(confidences[order], correct[order], 8, binning)
    assert [row[:3] for row in table] == [row[:3] for row in again]
    held = [row for row in table if row.n]
    assert len(held) <= 5 and sum(row.n for row in held) == 200
    for row in held:
        inside = (confidences > row.low) & (confidences <= row.high) | (row is table[0]) & (confidences == row.low)
        assert inside.sum() == row.n and math.isclose(row.accuracy, correct[inside].mean())


def test_brier_s_score_falls_apart_as_murphy_says():
    """Murphy 1973: reliability - resolution + uncertainty, where each bin holds one confidence."""
    rng = keyed("murphy")
    confidences = rng.choice([0.05, 0.35, 0.65, 0.95], size=500)
    correct = rng.uniform(size=500) < confidences**2
    rows = [row for row in reliability_table(confidences, correct, 10) if row.n]
    base = correct.mean()
    reliability = sum(row.n * (row.confidence - row.accuracy) ** 2 for row in rows) / 500
    resolution = sum(row.n * (row.accuracy - base) ** 2 for row in rows) / 500
    assert math.isclose(brier_score(confidences, correct), reliability - resolution + base * (1 - base))


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_the_error_is_near_zero_for_the_calibrated_and_the_shift_for_others(binning):
    rng = keyed("calibrated")
    confidences = rng.uniform(0, 0.8, size=20_000)
    calibrated = rng.uniform(size=20_000) < confidences
    over = rng.uniform(size=20_000) < confidences + 0.2
    assert expected_calibration_error(confidences, calibrated, binning=binning) < 0.015
    assert abs(expected_calibration_error(confidences, over, binning=binning) - 0.2) < 0.01
    assert abs(brier_score(confidences, over) - brier_score(confidences + 0.2, over) - 0.04) < 0.005


def test_the_extremes():
    assert brier_score([1, 0], [1, 0]) == expected_calibration_error([1, 0], [True, False]) == 0
    assert brier_score([1, 0], [0, 1]) == expected_calibration_error([1, 0], [0, 1]) == 1
    assert brier_score([0.5] * 4, [1, 0, 0, 1]) == 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), r"`confidences` has shape \(0,\)"),
        (([0.5], [1, 0]), "`correct` has 2 numbers; 1 are needed"),
        (([1.5], [1]), r"`confidences` holds 1.5; it must lie in \[0, 1\]"),
        (([-0.1], [1]), "`confidences` holds -0.1"),
        (([math.nan], [1]), "`confidences` holds NaN or infinity at place 0"),
        (([0.5], [2]), "`correct` holds 2; it must hold 0 and 1 only"),
        (([0.5], [math.nan]), "`correct` holds NaN"),
        (([0.5], [1], 0), "`bins` is 0; it must be an integer of 1 or more"),
        (([0.5], [1], 2.0), "`bins` is 2.0"),
        (([0.5], [1], 5, "equal"), "`binning` is 'equal'; it must be one of width, mass"),
    ],
)
def test_what_has_no_calibration_is_refused(arguments, message):
    for refuse in (reliability_table, expected_calibration_error, brier_score)[: 2 if len(arguments) > 2 else 3]:
        with pytest.raises(ValueError, match=message):
            refuse(*arguments)
