"""A sheet shows every tile once, under its column's name, and leaves white what a row does not have."""

import numpy as np
import pytest
import torch

from wm_pipelines.media.sheets import Tile, judged, sheet


def colour(*rgb):
    return torch.tensor(rgb).view(3, 1, 1).expand(3, 8, 8)


def count(page, rgb):
    return int((np.asarray(page) == np.array(rgb)).all(-1).sum())


def test_every_tile_is_shown_whole_once():
    red, blue, dark = colour(1.0, 0.0, 0.0), colour(0.0, 0.0, 1.0), colour(0.0, 0.5019608, 0.0)
    page = sheet(
        ["given", "made"], [("first", [[Tile(red)], [Tile(blue), Tile(dark)]]), ("second", [[], [Tile(red)]])], 32
    )
    assert [count(page, c) for c in ((255, 0, 0), (0, 0, 255), (0, 128, 0))] == [2 * 32**2, 32**2, 32**2]


def test_what_is_missing_stays_white():
    full = sheet(["a", "b"], [("x", [[Tile(colour(0.0, 0.0, 0.0))], [Tile(colour(0.0, 0.0, 0.0))]])], 32)
    half = sheet(["a", "b"], [("x", [[Tile(colour(0.0, 0.0, 0.0))], []])], 32)
    assert full.size == half.size
    assert count(full, (0, 0, 0)) - count(half, (0, 0, 0)) == 32**2
    assert count(half, (255, 255, 255)) - count(full, (255, 255, 255)) == 32**2


def test_words_make_room_and_tones_frame():
    tile = Tile(colour(0.2, 0.2, 0.2), "a green cube stands where a red sphere was asked for", "bad")
    short = sheet(["a"], [("x", [[Tile(colour(0.2, 0.2, 0.2), "yes", "good")]])], 48)
    long = sheet(["a"], [("x", [[tile]])], 48)
    assert long.height > short.height
    assert count(long, (0xB3, 0x26, 0x1E)) > 4 * 48 and count(short, (0x1A, 0x7F, 0x37)) > 4 * 48


def test_rows_and_tones_are_checked():
    with pytest.raises(ValueError, match="'x' has 1 cells for 2 columns"):
        sheet(["a", "b"], [("x", [[]])])
    with pytest.raises(ValueError, match="`tone` is 'red'; allowed: plain, good, bad"):
        sheet(["a"], [("x", [[Tile(colour(0.0, 0.0, 0.0), tone="red")]])])


def test_a_judged_tile_says_the_truth_where_it_is_missed():
    picture = torch.zeros(3, 4, 4)
    right, wrong = judged(picture, "cat", "cat"), judged(picture, "cat", "dog")
    assert (right.said, right.tone) == ("cat", "good")
    assert (wrong.said, wrong.tone) == ("cat, truly dog", "bad")
