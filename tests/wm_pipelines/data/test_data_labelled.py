"""Pictures of one size with their labels, and which of them are held out."""

import numpy as np
import PIL.Image
import pytest
import torch

from wm_pipelines.data.labelled import few_of_each, read_square


@pytest.fixture
def wide(tmp_path):
    """A picture of 60 x 20: red, then green, then blue."""
    picture = np.zeros((20, 60, 3), np.uint8)
    for n in range(3):
        picture[:, 20 * n : 20 * n + 20, n] = 255
    PIL.Image.fromarray(picture).save(tmp_path / "wide.png")
    return tmp_path / "wide.png"


def test_fits_keep_the_middle_all_of_it_or_its_whole_width(wide):
    crop, pad, stretch = (read_square([wide, wide], 30, fit) for fit in ("crop", "pad", "stretch"))
    assert crop.shape == pad.shape == stretch.shape == (2, 3, 30, 30) and crop.dtype == torch.float32
    assert crop[0, 1].mean() > 0.9 and crop[0, 0, :, 3:27].max() < 0.1
    assert pad[0, :, :5].max() < 0.05 and pad[0, 0, 15, 3] > 0.9 and pad[0, 2, 15, 27] > 0.9
    assert stretch[0, 0, 0, 3] > 0.9 and stretch[0, 2, 29, 27] > 0.9


@pytest.mark.parametrize(("size", "fit"), [(0, "crop"), (True, "crop"), (8, "error")])
def test_other_sizes_and_fits_are_refused(wide, size, fit):
    with pytest.raises(ValueError, match="`size` must be|`fit` must be"):
        read_square([wide], size, fit)
    with pytest.raises(ValueError, match="`paths` is empty"):
        read_square([], 8)


@pytest.mark.parametrize(("shots", "held"), [(1, 0), (2, 3), (0, 2), (0, 0), (5, 0)])
def test_so_many_of_each_class_and_none_twice(shots, held):
    labels = ["b", "a"] * 5 + ["c"] * 7
    fitted, tested = few_of_each(labels, shots, held, seed=1)
    assert not set(fitted) & set(tested) and len(set(fitted + tested)) == len(fitted + tested)
    for name in "abc":
        assert sum(labels[n] == name for n in tested) == held
        assert sum(labels[n] == name for n in fitted) == (shots or labels.count(name) - held)
    assert [labels[n] for n in fitted] == sorted((labels[n] for n in fitted), key="bac".index)


def test_the_choice_follows_the_seed_and_not_the_other_classes():
    labels = ["a"] * 20 + ["b"] * 20
    first = few_of_each(labels, 3, 2, seed=4)
    assert first == few_of_each(labels, 3, 2, seed=4) != few_of_each(labels, 3, 2, seed=5)
    assert few_of_each(labels[:20], 3, 2, seed=4)[0] == first[0][:3]


@pytest.mark.parametrize(
    ("shots", "held", "message"),
    [
        (3, 3, "class 'b' has 5 pictures; 3 held out and 3"),
        (0, 5, "class 'b' has 5"),
        (-1, 0, "`shots`"),
        (1, 1.0, "`held_out`"),
    ],
)
def test_too_few_pictures_are_named(shots, held, message):
    with pytest.raises(ValueError, match=message):
        few_of_each(["a"] * 9 + ["b"] * 5, shots, held)
