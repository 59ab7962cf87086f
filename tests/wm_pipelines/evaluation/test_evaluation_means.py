"""Shares and means with their errors, against published figures and statsmodels."""

import math
import subprocess
import sys

import numpy as np
import pytest

from wm_pipelines.evaluation.statistics import Mean, clustered_mean, wilson
from wm_pipelines.runtime.random import keyed


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (9, 189, 0.025, 0.088),  # MMWorld's judge: 9 of 189 verdicts wrong
        (36, 45, 0.66, 0.89),  # VLM4D, false positives: 80 % of 45
    ],
)
def test_wilson_gives_the_published_intervals(successes, n, low, high):
    digits = 4 if n in (263, 148, 20, 29) else 3 if n == 189 else 2
    assert tuple(round(x, digits) for x in wilson(successes, n)) == (low, high)


def test_wilson_is_statsmodels():
    from statsmodels.stats.proportion import proportion_confint

    for successes, n in ((0, 1), (1, 1), (0, 7), (7, 7), (3, 8), (500, 1816), (1125, 1816), (99_999, 100_000)):
        for confidence in (0.5, 0.9, 0.95, 0.999):
            found = wilson(successes, n, confidence)
            assert np.allclose(found, proportion_confint(successes, n, 1 - confidence, "wilson"), atol=1e-12)
            assert 0 <= found[0] < found[1] <= 1
    assert wilson(np.int64(3), np.int64(8)) == wilson(3, 8)


@pytest.mark.parametrize("kind", ["answers", "scores"])
@pytest.mark.parametrize("seed", range(3))
def test_the_clustered_error_is_statsmodels(kind, seed):
    import statsmodels.api as sm

    rng = keyed("means", kind, seed)
    of = rng.integers(0, 25, size=160)
    shared = rng.normal(size=25)[of] + rng.normal(size=160)
    values = (shared > 0.3).astype(int) if kind == "answers" else shared
    fit = sm.OLS(values, np.ones(160)).fit(
        cov_type="cluster", cov_kwds={"groups": of, "use_correction": False}, use_t=True
    )
    labels = [f"clip {i}" for i in of]
    mean = clustered_mean(values, labels, confidence=0.9)
    assert (mean.n, mean.clusters) == (160, len(set(labels)))
    assert np.allclose([mean.value, mean.error, mean.low, mean.high],
                       [*fit.params, *fit.bse, *fit.conf_int(0.1)[0]], rtol=1e-9)  # fmt: skip
    assert math.isclose(mean.design_effect, (mean.error / (values.std() / math.sqrt(160))) ** 2)
    assert mean.design_effect > 1.2


def test_items_on_their_own_have_the_simple_error():
    values = keyed("single").integers(0, 2, size=50)
    mean = clustered_mean(values)
    p = values.mean()
    assert math.isclose(mean.error, math.sqrt(p * (1 - p) / 50)) and math.isclose(mean.design_effect, 1)
    assert mean == clustered_mean(values.astype(bool), list(range(50)))
    # doubling every item changes no error where a cluster holds both
    twice = clustered_mean(np.repeat(values, 2), np.repeat(np.arange(50), 2))
    assert math.isclose(twice.error, mean.error) and math.isclose(twice.design_effect, 2)
    # VLM4D: with 1,816 questions the error is about 1.2 points
    assert round(clustered_mean([1] * 1044 + [0] * 772).error, 3) == 0.012


@pytest.mark.parametrize("value", [0, 1, 0.1])
def test_equal_values_have_no_error_and_no_design_effect(value):
    assert clustered_mean([value] * 9, [0, 1, 2] * 3) == Mean(value, 0.0, value, value, 9, 3, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 0), "`n` is 0; it must be an integer of 1 or more"),
        ((0, -3), "`n` is -3"),
        ((1.0, 2), "`successes` is 1.0; it must be an integer of 0 to 2"),
        ((3, 2), "`successes` is 3; it must be an integer of 0 to 2"),
        ((-1, 2), "`successes` is -1"),
        ((True, 2), "`successes` is True"),
        ((1, 2, 1.0), "`confidence` is 1.0; it must lie between 0 and 1"),
        ((1, 2, 95), "`confidence` is 95"),
        ((1, 2, math.nan), "`confidence` is nan"),
        ((1, 2, "0.9"), "`confidence` is '0.9'"),
    ],
)
def test_wilson_refuses_what_is_no_count(arguments, message):
    with pytest.raises(ValueError, match=message):
        wilson(*arguments)


@pytest.mark.parametrize(
    ("values", "clusters", "message"),
    [
        ([], None, r"`values` has shape \(0,\); it must be one row"),
        ([[1, 0]], None, r"`values` has shape \(1, 2\)"),
        (1, None, r"`values` has shape \(\)"),
        ([1, [0]], None, "`values` must be one row of numbers"),
        (["1", "0"], None, "`values` holds <U1; it must hold numbers"),
        ([1, None], None, "`values` holds object"),
        ([1, 2, math.inf], None, "`values` holds NaN or infinity at place 2"),
        ([1], None, "`clusters` has 1"),
        ([1, 0], ["x"], "`clusters` has 1 labels for 2 items"),
    ],
)
def test_means_of_what_is_no_row_of_numbers_are_refused(values, clusters, message):
    with pytest.raises(ValueError, match=message):
        clustered_mean(values, clusters)


def test_importing_the_statistics_imports_nothing_heavy():
    code = "import sys, wm_pipelines.evaluation.statistics; print({'torch', 'scipy', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
