"""Rows survive a kill; intervals cover what they should."""

import numpy as np


def test_a_line_cut_short_is_left_out_and_ended(script, tmp_path):
    records, path = script("records"), tmp_path / "rows.jsonl"
    records.append(path, {"a": 1})
    with open(path, "a") as file:
        file.write('{"a": 2, "b"')
    assert records.read(path) == [{"a": 1}]
    records.append(path, {"a": 3})
    assert records.read(path) == [{"a": 1}, {"a": 3}]


def test_a_row_says_where_it_was_made(script):
    here = script("records").environment()
    assert "threads" in here["hardware"] and "torch" in here["versions"] and "commit" in here


def test_seeds_that_differ_widen_the_interval_though_scenes_are_many(script):
    records = script("records")
    scenes = np.random.default_rng(0).normal(size=(5, 200))
    alike = records.interval(records.hierarchical(scenes, 1000))
    apart = records.interval(records.hierarchical(scenes + np.array([[-2.0], [-1], [0], [1], [2]]), 1000))
    assert apart[1] - apart[0] > 5 * (alike[1] - alike[0])
    # standard error of the mean of five seeds with this spread: sqrt(2 / 5)
    assert abs((apart[1] - apart[0]) / (2 * 1.96) - np.sqrt(2 / 5)) < 0.1


def test_missing_scenes_are_left_out_of_the_mean(script):
    values = np.ones((2, 4))
    values[0, 1] = np.nan
    assert np.allclose(script("records").hierarchical(values, 50), 1)


def test_the_detectable_difference_is_2_8_standard_errors(script):
    draws = np.random.default_rng(0).normal(scale=0.5, size=20_000)
    assert abs(script("records").detectable(draws) - 1.4) < 0.05


def test_the_median_ratio_has_an_interval_around_it(script):
    records = script("records")
    ratios = 1.2 + 0.01 * np.arange(-10, 11)
    low, high = records.interval(records.median_draws(ratios, 500))
    assert 1.1 < low <= 1.2 <= high < 1.3
