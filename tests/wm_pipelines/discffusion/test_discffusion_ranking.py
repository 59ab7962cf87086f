import numpy as np
import pytest

from wm_pipelines.discffusion.ranking import against_rivals, run_race, standard_errors
from wm_pipelines.runtime.random import keyed

STEPS, CANDIDATES = 49, 8


def tables(count, gap):
    """Scores with a trend and a noise that candidates share, as timesteps give them."""
    for n in range(count):
        rng = keyed("race", gap, n)
        trend = 5 * np.sin(np.linspace(0, 3, STEPS)) + rng.normal(0, 1, STEPS)
        reach = np.linspace(0.2, 1.8, STEPS)
        truth = np.sort(rng.normal(0, gap, CANDIDATES))
        yield trend[:, None] + reach[:, None] * truth + rng.normal(0, 0.5, (STEPS, CANDIDATES))


@pytest.mark.parametrize("gap", [0.5, 2.0])
def test_elimination_finds_the_winner_of_the_full_run_for_half_of_the_passes(gap):
    same, passes = [], []
    for scores in tables(500, gap):
        race = run_race(lambda k, left, s=scores: s[k, left], STEPS, CANDIDATES)
        same.append(race.order[0] == int(scores.mean(0).argmax()))
        passes.append(race.seen.sum() + race.seen.max())
        assert sorted(race.order) == list(range(CANDIDATES))
    assert np.mean(same) >= 0.99
    assert np.mean(passes) <= 0.5 * STEPS * (CANDIDATES + 1)


def test_equal_candidates_are_never_dropped():
    scores = np.tile(keyed("ties").normal(size=(20, 1)), (1, 3))
    race = run_race(lambda k, left: scores[k, left], 20, 3)
    assert race.seen.tolist() == [20, 20, 20]
    assert race.order == [0, 1, 2]


def test_a_full_run_ranks_by_the_mean():
    scores = keyed("full").normal(size=(6, 5))
    race = run_race(lambda k, left: scores[k, left], 6, 5, least=7)
    assert race.order == np.argsort(-scores.mean(0)).tolist()
    np.testing.assert_array_equal(race.scores, scores)


def test_the_interval_is_that_of_the_paired_difference():
    rng = keyed("paired")
    shared = rng.normal(0, 10, (30, 1))
    scores = shared + np.array([1.0, 0.0, -3.0]) + rng.normal(0, 0.1, (30, 3))
    difference, interval = against_rivals(scores)
    assert difference == pytest.approx([1, -1, -4], abs=0.1)
    assert (interval[:, 0] < difference).all() and (difference < interval[:, 1]).all()
    assert (interval[:, 1] - interval[:, 0]).max() < 0.2 < standard_errors(scores).min()


def test_one_timestep_has_no_interval():
    difference, interval = against_rivals(np.array([[1.0, 3.0]]))
    assert difference.tolist() == [-2, 2]
    assert np.isnan(interval).all() and np.isnan(standard_errors(np.ones((1, 2)))).all()
