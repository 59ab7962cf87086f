"""Draws over clusters: their spread is the clustered error, they cover, and they are the same every time."""

import numpy as np
import pytest

from wm_pipelines.evaluation.statistics import cluster_bootstrap, clustered_mean, hierarchical, interval
from wm_pipelines.runtime.random import keyed


def clustered_items(rng, groups, spread=1.0):
    """Values and labels: up to seven items a cluster, which share a part."""
    sizes = rng.integers(1, 8, size=groups)
    of = np.repeat(np.arange(groups), sizes)
    return rng.normal(size=groups)[of] * spread + rng.normal(size=len(of)), of


@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_the_spread_of_draws_is_the_clustered_error(spread):
    values, of = clustered_items(keyed("test", 1), 300, spread)
    draws = cluster_bootstrap(values, of)
    mean = clustered_mean(values, of)
    assert draws.shape == (2000,) and abs(draws.mean() - mean.value) < 0.1 * mean.error
    assert abs(draws.std() / mean.error - 1) < 0.06


def test_intervals_cover_the_truth_where_single_items_would_not():
    rng, hits, naive = keyed("test", 2), 0, 0
    for _ in range(100):
        values, of = clustered_items(rng, 40, 2.0)
        low, high = interval(cluster_bootstrap(values, of, draws=300))
        hits += low <= 0 <= high
        single = clustered_mean(values)
        naive += single.low <= 0 <= single.high
    assert hits >= 87 and naive < 80  # 95 are expected; fewer than 87 come once in 1,000


def test_draws_are_the_same_every_time_and_for_any_order_of_items():
    rng = keyed("test", 3)
    _, of = clustered_items(rng, 30)
    values = rng.integers(0, 2, size=len(of))
    labels = [f"video {i:02d}" for i in of]
    draws = cluster_bootstrap(values, labels, draws=50)
    order = rng.permutation(len(of))
    assert np.array_equal(draws, cluster_bootstrap(values[order], [labels[i] for i in order], draws=50))
    assert np.array_equal(draws, cluster_bootstrap(values, of, draws=50))
    assert np.array_equal(draws[:20], cluster_bootstrap(values, of, draws=20))
    single = cluster_bootstrap(values, draws=50)
    assert np.array_equal(single, cluster_bootstrap(values, range(len(of)), draws=50)) and (single != draws).any()
    assert np.allclose(1 - draws, cluster_bootstrap(1 - values, of, draws=50))  # two models are drawn alike


def test_any_statistic_is_drawn_with_whole_clusters():
    rng = keyed("test", 4)
    values, of = clustered_items(rng, 12)
    order = rng.permutation(len(of))
    values, of = values[order], of[order]
    assert np.allclose(cluster_bootstrap(values, of, 40, np.mean), cluster_bootstrap(values, of, 40))
    table = np.stack([values, of], axis=1)
    sizes = np.bincount(of)

    def whole(rows):
        found, counts = np.unique(rows[:, 1].astype(int), return_counts=True)
        times = counts / sizes[found]
        assert np.array_equal(times, times.round()) and times.sum() == 12
        return np.median(rows[:, 0])

    assert len(np.unique(cluster_bootstrap(table, of, 40, whole))) > 5


def test_the_interval_holds_the_middle_of_the_draws():
    assert interval(np.arange(1001.0)) == (25.0, 975.0)
    assert np.array_equal(cluster_bootstrap([1, 1, 1], [0, 0, 1]), np.ones(2000))


def test_draws_over_seeds_are_those_of_earlier_records():
    """The streams of `hierarchical` and `keyed` are part of every record that holds an interval."""
    draws = hierarchical(np.arange(12.0).reshape(3, 4) ** 2, 1000)
    assert draws[:3].tolist() == [47.5, 20.416666666666668, 62.666666666666664]


@pytest.mark.parametrize(
    ("values", "clusters", "more", "message"),
    [
        ([1, 0], ["a"], {}, "`clusters` has 1 labels for 2 items"),
        ([1, 0], ["a", 1], {}, "all text or all integers"),
        ([1, 0], [0.5, 1.5], {}, "all text or all integers"),
        ([1, 0], [True, False], {}, "all text or all integers"),
        ([1, 0], [None, None], {}, "all text or all integers"),
        ([1, 0], ["a", "a"], {}, "`clusters` has 1; how much clusters differ takes at least two"),
        ([1, np.nan], [0, 1], {}, "`values` holds NaN or infinity at place 1"),
        ([], [], {}, r"`values` has shape \(0,\)"),
        ([], [], {"statistic": np.mean}, "`clusters` has 0"),
        ([1, 0, 0], [0, 1], {"statistic": np.mean}, "`clusters` has 2 labels for 3 items"),
        ([1, 0], [0, 1], {"draws": 0}, "`draws` is 0; it must be an integer of 1 or more"),
        ([1, 0], [0, 1], {"draws": 10.0}, "`draws` is 10.0"),
    ],
)
def test_what_can_not_be_drawn_is_refused(values, clusters, more, message):
    with pytest.raises(ValueError, match=message):
        cluster_bootstrap(values, clusters, **more)
